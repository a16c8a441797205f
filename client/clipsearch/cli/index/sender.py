"""Sends parcels, each image of the source once, and notes what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Event

from clipsearch import AddItem, AddOutcome, AddResult, Image, SearchClient
from clipsearch.cli.index.delivery import Delivery
from clipsearch.cli.index.entry import Failure, Url, to_json, unsent, uri_of
from clipsearch.cli.index.journal import Journal, Record
from clipsearch.cli.index.patience import Patience
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
    """Sends parcels until each has a result.

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
        self._journal = journal
        self._report = report
        self._headers = sending.headers
        self._check_server = check_server
        # By the id of an image under way: others with the same bytes, or of the same URL.
        self._copies: dict[str, list[Parcel]] = {}
        # By the key of an image under way: what the source names another time.
        self._repeats: dict[str, list[Parcel]] = {}
        self._delivery = Delivery(
            client,
            self._pack,
            self._take,
            collection=sending.collection,
            max_in_flight=sending.max_in_flight,
            patience=Patience(client, sending.wait_s, report.trouble, stopping),
            stopping=stopping,
        )

    def send(self, parcels: Iterable[Parcel]) -> None:
        self._delivery.deliver(parcels, check_server=self._check_server)

    def _pack(self, parcel: Parcel) -> AddItem | None:
        """Returns what is to be sent; settles what is not."""
        entry = parcel.entry
        if parcel.outcome == AddOutcome.DUPLICATE:
            self._settle_repeat(parcel)
            return None
        if parcel.is_settled:
            self._settle(parcel, parcel.outcome, parcel.failure)
            return None
        if entry.key not in self._repeats:  # else it was under way, and is sent again
            self._repeats[entry.key] = []
            if self._is_copy(parcel):
                return None
            self._copies[parcel.id] = []
        url = entry.origin.url if isinstance(entry.origin, Url) else None
        return AddItem(
            item_id=entry.key,
            url=url,
            content=parcel.content,
            id=entry.id,
            uri=uri_of(entry),
            metadata=entry.metadata,
            fetch_headers={} if url is None else self._headers,
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

    def _take(self, parcel: Parcel, result: AddResult) -> None:
        added, error = result.added, result.error
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
