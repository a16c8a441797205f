"""Sends parcels, whatever the server goes through meanwhile, and notes what became of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Event

from clipsearch import AddItem, AddOutcome, AddResult, Image, SearchClient, SearchError
from clipsearch.cli.index.entry import Failure, Url, to_json, unsent, uri_of
from clipsearch.cli.index.journal import Journal, Record
from clipsearch.cli.index.patience import (
    FATAL_ERRORS,
    MAX_ATTEMPTS,
    SERVER_ERRORS,
    Patience,
    is_passing,
)
from clipsearch.cli.index.read_ahead import Parcel
from clipsearch.cli.index.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How to send. Once the server has stored nothing for ``wait_s`` because of an error of its own
    or of the network, the error ends the run."""

    collection: str
    headers: Mapping[str, str]
    max_in_flight: int
    wait_s: float


class Sender:
    """Sends parcels until each has a result, over as many streams as it takes.

    Ends early once ``stopping`` is set. Raises SearchError, and whatever ``check_server``, which is
    called when the server is back, raises.
    """

    def __init__(
        self,
        client: SearchClient,
        journal: Journal,
        report: Report,
        sending: Sending,
        *,
        check_server: Callable[[], None],
        stopping: Event,
    ) -> None:
        self._client = client
        self._journal = journal
        self._report = report
        self._sending = sending
        self._check_server = check_server
        self._stopping = stopping
        self._number = 0
        self._under_way: dict[str, Parcel] = {}  # by item id
        self._again: deque[Parcel] = deque()
        # What got a server's error of its own is sent after others, so that it cannot hold them up.
        self._suspects: deque[Parcel] = deque()
        self._server_error: SearchError | None = None
        # By the id of an image under way: others with the same bytes, or of the same URL.
        self._copies: dict[str, list[Parcel]] = {}
        # By the key of an image under way: what the source names another time.
        self._repeats: dict[str, list[Parcel]] = {}
        self._patience = Patience(client, sending.wait_s, report.trouble, stopping)

    def send(self, parcels: Iterable[Parcel]) -> None:
        left = iter(parcels)
        while not self._stopping.is_set():
            try:
                for result in self._client.add_images(
                    self._items(left),
                    collection=self._sending.collection,
                    max_in_flight=self._sending.max_in_flight,
                ):
                    self._take(result)
            except SearchError as error:
                if self._stopping.is_set() or not is_passing(error):
                    raise
                self._again.extend(self._under_way.values())
                self._under_way.clear()
                self._patience.wait(error, self._check_server)
            else:
                if self._server_error is None:
                    return
                self._patience.wait(self._server_error, self._check_server)

    def _items(self, parcels: Iterator[Parcel]) -> Iterator[AddItem]:
        """Yields what is to be sent, until there is no more or a result is a server's error."""
        self._server_error = None
        while self._again and self._server_error is None:
            yield self._item(self._again.popleft())
        while self._server_error is None:
            parcel = next(parcels, None)
            if parcel is None:
                break
            if parcel.outcome == AddOutcome.DUPLICATE:
                self._settle_repeat(parcel)
                continue
            if parcel.is_settled:
                self._settle(parcel, parcel.outcome, parcel.failure)
                continue
            self._repeats[parcel.entry.key] = []
            if not self._is_copy(parcel):
                self._copies[parcel.id] = []
                yield self._item(parcel)
                yield from self._suspect_items()
        yield from self._suspect_items()

    def _suspect_items(self) -> Iterator[AddItem]:
        while self._suspects and self._server_error is None:
            yield self._item(self._suspects.popleft())

    def _item(self, parcel: Parcel) -> AddItem:
        self._number += 1
        item_id = str(self._number)
        self._under_way[item_id] = parcel
        entry = parcel.entry
        url = entry.origin.url if isinstance(entry.origin, Url) else None
        return AddItem(
            item_id=item_id,
            url=url,
            content=parcel.content,
            id=entry.id,
            uri=uri_of(entry),
            metadata=entry.metadata,
            fetch_headers={} if url is None else self._sending.headers,
        )

    def _is_copy(self, parcel: Parcel) -> bool:
        """Deals with what has the id of another image of this source, and returns whether it has.

        To send it would only replace that one's uri and metadata.
        """
        copies = self._copies.get(parcel.id)
        owner = self._journal.owner(parcel.id)
        if copies is None and owner in (None, parcel.entry.key):
            return False
        if parcel.entry.id:
            why = f"the id {parcel.id} is that of another image of the source"
            self._settle(parcel, failure=unsent("ID_REPEATED", why))
        elif copies is None:
            self._settle(parcel, AddOutcome.DUPLICATE)
        else:
            parcel.content = None
            copies.append(parcel)
        return True

    def _take(self, result: AddResult) -> None:
        """Notes a result. Raises its error if no other image would fare better."""
        parcel = self._under_way.pop(result.item_id)
        added, error = result.added, result.error
        if error is not None and isinstance(error, FATAL_ERRORS):
            raise error
        if error is not None and isinstance(error, SERVER_ERRORS):
            parcel.attempts += not self._patience.is_in_trouble
            if parcel.attempts < MAX_ATTEMPTS:
                self._suspects.append(parcel)
                self._server_error = error
                return
        self._patience.renew()
        copies = self._copies.pop(parcel.id, [])
        if added is not None:
            parcel.id = added.image.id
            self._settle(parcel, added.outcome, image=added.image, is_sent=True)
            for copy in copies:
                copy.id = parcel.id
                self._settle(copy, AddOutcome.DUPLICATE)
        elif error is not None:
            for it in (parcel, *copies):
                self._settle(it, failure=Failure.of(error), is_sent=it is parcel)

    def _settle(
        self,
        parcel: Parcel,
        outcome: str = "",
        failure: Failure | None = None,
        image: Image | None = None,
        is_sent: bool = False,
    ) -> None:
        entry = parcel.entry
        if failure is not None and not parcel.is_known:
            facts = to_json(entry)
            self._journal.write(
                Record(key=entry.key, stamp=parcel.stamp, failure=failure, entry=facts)
            )
        elif failure is None and parcel.stamp:  # without, it is in the journal already
            self._journal.write(
                Record(key=entry.key, stamp=parcel.stamp, outcome=str(outcome), id=parcel.id)
            )
        self._report.settle(entry, str(outcome), failure=failure, image=image, is_sent=is_sent)
        for repeat in self._repeats.pop(entry.key, []):
            self._settle_repeat(repeat)

    def _settle_repeat(self, parcel: Parcel) -> None:
        """Gives what the source names another time the fate of the first, once that is known."""
        key = parcel.entry.key
        if key in self._repeats:
            self._repeats[key].append(parcel)
            return
        first = self._journal.recall(key)
        failure = None if first is None else first.failure
        outcome = "" if failure is not None else AddOutcome.DUPLICATE
        self._report.settle(parcel.entry, outcome, failure=failure)
