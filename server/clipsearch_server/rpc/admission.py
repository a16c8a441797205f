"""Says no, politely, to what is more than the server takes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

from clipsearch_server.callers import Caller
from clipsearch_server.errors import Overloaded, QuotaExceeded
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.pacing import Appointments, Pacer, Rate


class Admission:
    """Bounds the calls under way of each class of work, and those of each caller by its quota, so
    that those being served stay fast however many come in.

    There is no queue before the places: a place is already a turn at the encoder or the index, and
    who is told at once can still go elsewhere. Who is refused is told when to come again, each at
    another time, as far ahead as those who were refused before need.
    """

    def __init__(
        self, places: Mapping[Work, int], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._classes = {work: _Places(count) for work, count in places.items()}
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)

    @contextmanager
    def admit(self, work: Work, caller: Caller) -> Iterator[None]:
        """Holds a place for as long as the block lasts. Raises Overloaded if there is none, and
        QuotaExceeded if the caller has as much as it may."""
        now = self._clock()
        places = self._classes[work]
        if places.in_flight >= places.count:
            raise Overloaded(
                "the server is busy; try again in a moment",
                retry_after_s=places.come_again(now),
            )
        # An account for each name that has a quota: as many as the operator gave out.
        account = self._accounts[caller.name] if caller.quota.is_bounded else None
        if account is not None:
            account.check(caller, now)
            account.in_flight += 1
        places.in_flight += 1
        try:
            yield
        finally:
            places.leave(self._clock())
            if account is not None:
                account.leave(self._clock())

    def in_flight(self, work: Work) -> int:
        """Returns how many calls of a class are under way."""
        return self._classes[work].in_flight


class _Places:
    """The calls under way of a class, and when those that found no place may come again."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.in_flight = 0
        self._served = Rate()
        self._appointments = Appointments()

    def leave(self, now: float) -> None:
        self.in_flight -= 1
        self._served.count(now)

    def come_again(self, now: float) -> float:
        """Returns the seconds after which one who is refused now may come again."""
        return self._appointments.make(now, self._served.per_second(now))


class _Account(_Places):
    """The same for one caller, and the pace at which it may begin calls."""

    def __init__(self) -> None:
        super().__init__(0)
        self._pacer = Pacer()
        self._paced_appointments = Appointments()

    def check(self, caller: Caller, now: float) -> None:
        """Takes one call from the quota. Raises QuotaExceeded if it has none left."""
        most, rate = caller.quota.max_in_flight, caller.quota.calls_per_second
        if most is not None and self.in_flight >= most:
            raise QuotaExceeded(
                f"your key may have {most} calls under way at a time; try again when one is done",
                quota="max_in_flight",
                caller=caller.name,
                retry_after_s=self.come_again(now),
            )
        if rate is not None and not self._pacer.take(now, rate):
            raise QuotaExceeded(
                f"your key may make {rate:g} calls a second; try again in a moment",
                quota="calls_per_second",
                caller=caller.name,
                retry_after_s=max(
                    self._paced_appointments.make(now, rate), self._pacer.empty_s(now, rate)
                ),
            )
