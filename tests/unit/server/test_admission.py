"""Who is let in, and what the others are told."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch_server.callers import ANYBODY, Caller, Quota, Scope
from clipsearch_server.errors import Overloaded, QuotaExceeded
from clipsearch_server.log_lines import TextFormatter, request_id
from clipsearch_server.rpc import refusals
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.pacing import LATEST_S, SOONEST_S, Appointments, Pacer, Rate
from clipsearch_server.rpc.refusals import Refusals


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, *, places: int = 2) -> Admission:
    return Admission(dict.fromkeys(Work, places), clock=clock or Clock())


def caller(name: str, quota: Quota) -> Caller:
    return Caller(name, frozenset(Scope), quota)


def test_a_class_has_its_own_places() -> None:
    doorman = admission()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(doorman.admit(Work.BULK, ANYBODY))
        with pytest.raises(Overloaded), doorman.admit(Work.BULK, ANYBODY):
            pass
        with doorman.admit(Work.QUERY, ANYBODY):
            assert doorman.in_flight(Work.QUERY) == 1


def test_a_place_is_free_again_however_its_call_ends() -> None:
    doorman = admission(places=1)
    for _ in range(3):
        with pytest.raises(KeyError), doorman.admit(Work.QUERY, ANYBODY):
            raise KeyError
    assert doorman.in_flight(Work.QUERY) == 0


def test_those_refused_come_again_as_fast_as_they_can_be_served() -> None:
    clock = Clock()
    doorman = admission(clock, places=1)
    for _ in range(201):  # 100 a second
        with doorman.admit(Work.QUERY, ANYBODY):
            clock.now += 0.01
    times = []
    with doorman.admit(Work.QUERY, ANYBODY):
        for _ in range(300):
            with pytest.raises(Overloaded) as caught, doorman.admit(Work.QUERY, ANYBODY):
                pass
            times.append(caught.value.retry_after_s)
    assert times[0] == pytest.approx(SOONEST_S)
    assert times[-1] == pytest.approx(SOONEST_S + 2.99, rel=0.05)
    assert len(set(times)) == 300


@settings(deadline=None)
@given(st.floats(0, 10_000), st.integers(1, 100))
def test_appointments_are_apart_and_within_bounds(per_second: float, count: int) -> None:
    appointments = Appointments()
    waits = [appointments.make(0.0, per_second) for _ in range(count)]
    assert all(SOONEST_S <= wait <= LATEST_S for wait in waits)
    step = 1 / max(per_second, 1)
    for earlier, later in pairwise(waits):
        # But where they begin anew, being too far ahead.
        assert abs(later - earlier - step) < 1e-9 or earlier + step > LATEST_S


def test_an_appointment_that_is_over_holds_nobody_up() -> None:
    appointments = Appointments()
    for _ in range(100):
        appointments.make(0.0, 10)
    assert appointments.make(60.0, 10) == pytest.approx(SOONEST_S)


def test_the_rate_is_of_late() -> None:
    rate = Rate()
    for tick in range(300):
        rate.count(tick / 100)
    assert rate.per_second(2.99) == pytest.approx(100, rel=0.05)
    assert rate.per_second(60) == pytest.approx(0, abs=2)


def test_a_caller_has_no_more_under_way_than_its_quota_and_others_as_much_as_theirs() -> None:
    doorman = admission(places=10)
    loader = caller("loader", Quota(max_in_flight=2))
    with ExitStack() as stack:
        stack.enter_context(doorman.admit(Work.BULK, loader))
        stack.enter_context(doorman.admit(Work.QUERY, loader))
        with pytest.raises(QuotaExceeded) as caught, doorman.admit(Work.QUERY, loader):
            pass
        assert caught.value.metadata == {"quota": "max_in_flight"}
        assert caught.value.retry_after_s >= SOONEST_S
        assert doorman.in_flight(Work.QUERY) == 1  # who was refused took no place
        for other in (ANYBODY, caller("other", Quota(max_in_flight=2))):
            with doorman.admit(Work.QUERY, other):
                pass
    with doorman.admit(Work.QUERY, loader):
        pass


def test_a_caller_makes_no_more_calls_a_second_than_its_quota() -> None:
    clock = Clock()
    doorman = admission(clock)
    paced = caller("paced", Quota(calls_per_second=5))

    for elapsed_s, calls in ((0, 5), (0.4, 2), (60, 5)):
        clock.now += elapsed_s
        for _ in range(calls):
            with doorman.admit(Work.QUERY, paced):
                pass
        with pytest.raises(QuotaExceeded) as caught, doorman.admit(Work.QUERY, paced):
            pass
        assert caught.value.metadata == {"quota": "calls_per_second"}


@pytest.mark.parametrize("per_second", [0.01, 0.5, 5])
def test_who_comes_again_as_told_is_let_in(per_second: float) -> None:
    clock = Clock()
    doorman = admission(clock)
    paced = caller("paced", Quota(calls_per_second=per_second))

    def call() -> None:
        with doorman.admit(Work.QUERY, paced):
            pass

    def call_until_refused() -> None:
        while True:
            call()

    for _ in range(3):
        with pytest.raises(QuotaExceeded) as caught:
            call_until_refused()
        clock.now += caught.value.retry_after_s
        call()


def test_a_quota_that_changes_holds_from_then_on() -> None:
    clock = Clock()
    doorman = admission(clock)
    with (
        doorman.admit(Work.QUERY, caller("key", Quota(max_in_flight=2))),
        pytest.raises(QuotaExceeded),
        doorman.admit(Work.QUERY, caller("key", Quota(max_in_flight=1))),
    ):
        pass


@settings(deadline=None)
@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 3), min_size=1, max_size=80),
)
def test_a_bucket_gives_no_more_than_comes_in_and_one_second_of_it(
    per_second: float, pauses: list[float]
) -> None:
    pacer = Pacer()
    now = 0.0
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if pacer.take(now, per_second):
            taken.append(now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            allowed = per_second * (taken[last] - start) + max(per_second, 1)
            assert last - first + 1 <= allowed * (1 + 1e-6) + 1e-6


@settings(deadline=None)
@given(st.floats(0.1, 1000))
def test_a_bucket_gives_all_that_comes_in(per_second: float) -> None:
    pacer = Pacer()
    assert all(pacer.take(0.1 + number / per_second, per_second) for number in range(100))


async def test_refusals_are_logged_together(caplog: pytest.LogCaptureFixture) -> None:
    refused = Refusals()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            refused.note("QueryText", "SERVER_OVERLOADED", ANYBODY)
        refused.note("AddImage", "QUOTA_EXCEEDED", caller("loader", Quota()))
        refused.log()
        refused.log()
    assert [record.getMessage() for record in caplog.records] == [
        "refused calls=1 method=AddImage reason=QUOTA_EXCEEDED caller=loader",
        "refused calls=3 method=QueryText reason=SERVER_OVERLOADED",
    ]


async def test_the_line_about_many_calls_bears_the_id_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_LOG_EVERY_S", 0)
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    class Written(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            told.set_result(TextFormatter().format(record))
            return True

    monkeypatch.setattr(refusals.logger, "handlers", [Written()])
    request_id.set("of-the-first-call")
    Refusals().note("QueryText", "SERVER_OVERLOADED", ANYBODY)
    assert (await told).endswith("refused calls=1 method=QueryText reason=SERVER_OVERLOADED")
