"""Brings the target what it lacks, and takes from it what the source has no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event

from clipsearch import (
    AddItem,
    AddResult,
    EmbeddedImage,
    Image,
    NotFoundError,
    SearchClient,
    SearchError,
)
from clipsearch.cli.index.delivery import Delivery
from clipsearch.cli.index.entry import Entry, Failure, to_json, unsent
from clipsearch.cli.index.journal import Record
from clipsearch.cli.index.patience import Patience
from clipsearch.cli.index.read_ahead import ReadAhead
from clipsearch.cli.index.report import Report
from clipsearch.cli.reembed.merge import ABSENT, Look, Pair, mark, version
from clipsearch.cli.reembed.originals import Originals, entry_of
from clipsearch.cli.reembed.plan import PlanError
from clipsearch.cli.sources import UnreadableError

COPIED = "copied"
CHANGED = "changed at its URL"  # copied as it is there now
DELETED = "deleted"

_MAX_RELABELLED = 64  # images stored together with an embedding that the target has already


@dataclass(slots=True, kw_only=True)
class _Parcel:
    """A pair whose source was read; its content is None if the server fetches it, or need not have
    it."""

    pair: Pair
    content: bytes | None = None
    problem: UnreadableError | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class _Label:
    """An image to store with the embedding that the target has under the id ``twin``."""

    pair: Pair
    image: Image
    twin: str


class Copier:
    """Copies to the collection ``target``; ``headers`` are for the hosts of URLs.

    ``look`` is told what the target is given, ``failures`` are those of the images that could not
    be copied, by their ids; ``settled`` are the marks in the source of what is not to be tried a
    second time: what has failed, and what has changed at its URL.
    """

    def __init__(
        self,
        client: SearchClient,
        target: str,
        originals: Originals,
        report: Report,
        *,
        headers: Mapping[str, str],
        max_in_flight: int,
        patience: Patience,
        stopping: Event,
    ) -> None:
        self.look = Look()
        self.failures: dict[str, Record] = {}
        self.settled: dict[str, int] = {}
        self._client = client
        self._target = target
        self._originals = originals
        self._report = report
        self._headers = headers
        self._stopping = stopping
        self._delivery = Delivery(
            client,
            self._pack,
            self._take,
            collection=target,
            max_in_flight=max_in_flight,
            patience=patience,
            stopping=stopping,
        )
        self._labels: deque[_Label] = deque()
        self._is_in_use = False

    @property
    def missing(self) -> list[Record]:
        """The failures of images that the source still has."""
        return [it for it in self.failures.values() if self.look.source(it.key) != ABSENT]

    def copy(self, due: Iterable[Pair], *, is_in_use: bool = False) -> None:
        """Has the target agree with the source in the pairs; if others use it, only as far as it is
        as the pairs say when an image is sent.

        What fails is noted, but for what no other image would survive: that SearchError is raised.
        Raises PlanError if others have begun to use the target. Ends early once ``stopping`` is
        set.
        """
        self._is_in_use = is_in_use
        with ReadAhead(due, self._read, self._stopping) as parcels:
            self._delivery.deliver(parcels, finish=self._store_labels)

    def check_unused(self) -> None:
        """Raises PlanError if others have begun to use the target, as after the switch of another
        run: what only the target holds is no leftover then, and may not be deleted."""
        if aliases := self._client.get_collection(self._target).aliases:
            raise PlanError(
                f"{', '.join(aliases)} stands for {self._target} by now, which others use and is "
                "therefore left as it is; was it switched by another run?"
            )

    def _read(self, pair: Pair) -> _Parcel:
        """Runs in the thread that reads ahead."""
        if pair.source is None or _same_content(pair.source, pair.target):
            return _Parcel(pair=pair)
        try:
            return _Parcel(pair=pair, content=self._originals.read(pair.source))
        except UnreadableError as error:
            return _Parcel(pair=pair, problem=error)

    def _pack(self, parcel: _Parcel) -> AddItem | None:
        """Returns what is to be embedded; does at once what needs no embedding."""
        pair, image = parcel.pair, parcel.pair.source
        if self._is_in_use and not self._is_as_seen(pair):
            return None
        if not self._is_in_use and pair.target is not None:
            self.check_unused()
        if image is None:
            self._delete(pair)
        elif parcel.problem is not None:
            self._fail(pair, unsent(parcel.problem.reason, str(parcel.problem)))
        elif _same_content(image, pair.target):
            self._relabel(_Label(pair, image, pair.id))
        else:
            is_fetched = parcel.content is None
            return AddItem(
                item_id=image.id,
                url=image.url if is_fetched else None,
                content=parcel.content,
                id=image.id,
                uri=image.uri,
                metadata=image.metadata,
                fetch_headers=self._headers if is_fetched else {},
                create_time=image.create_time,
            )
        return None

    def _take(self, parcel: _Parcel, result: AddResult) -> None:
        if result.added is not None:
            self._compare(parcel.pair, result.added.image)
        elif result.error is not None:
            try:
                self._fail(parcel.pair, Failure.of(result.error))
            except SearchError:
                self._delivery.again(parcel)
                raise

    def _compare(self, pair: Pair, stored: Image) -> None:
        """Notes what was stored; where that is not what the source says, the embedding is there,
        and the rest is mended.

        So it is if the server refuses to store a content twice, or links to another original than
        in the source, and if a file was sent in place of a URL.
        """
        wanted = pair.source
        assert wanted is not None
        if stored.sha256 != wanted.sha256:
            wanted = replace(
                wanted,
                sha256=stored.sha256,
                media_type=stored.media_type,
                width_px=stored.width_px,
                height_px=stored.height_px,
                size_bytes=stored.size_bytes,
            )
        if mark(stored) == mark(wanted):
            self._settle(pair, stored)
        else:
            self._relabel(_Label(pair, wanted, stored.id))

    def _relabel(self, label: _Label) -> None:
        self._labels.append(label)
        if self._is_in_use or len(self._labels) >= _MAX_RELABELLED:
            self._store_labels()

    def _store_labels(self) -> None:
        """Stores the images that wait for it. One whose twin has gone meanwhile is left to the next
        look, which finds it missing."""
        found = [
            (label, EmbeddedImage(image=label.image, embedding=embedding, model_fingerprint=model))
            for label in self._labels
            for embedding, model in self._embedding(label)
        ]
        for _ in self._client.import_images(
            (embedded for _, embedded in found), collection=self._target
        ):
            pass
        self._labels.clear()
        for label, _ in found:
            self._settle(label.pair, label.image)

    def _embedding(self, label: _Label) -> Iterator[tuple[Sequence[float], str]]:
        """Yields the embedding of a twin and its model's fingerprint, if it is there."""
        images = self._client.export_images(start_id=label.twin, collection=self._target)
        first = next(images, None)
        if first and (first.image.id, first.image.sha256) == (label.twin, label.image.sha256):
            yield first.embedding, first.model_fingerprint

    def _is_as_seen(self, pair: Pair) -> bool:
        target: Image | None = None
        with suppress(NotFoundError):
            target = self._client.get_image(pair.id, collection=self._target)
        return version(target) == version(pair.target)

    def _delete(self, pair: Pair) -> None:
        self._remove(pair)
        self._report.settle(Entry(key=pair.id), DELETED)

    def _remove(self, pair: Pair) -> None:
        with suppress(NotFoundError):
            self._client.delete_image(pair.id, collection=self._target)
        self.look.note_target(pair.id, None)

    def _settle(self, pair: Pair, stored: Image) -> None:
        self.look.note_target(pair.id, stored)
        self.failures.pop(pair.id, None)
        is_changed = pair.source is not None and stored.sha256 != pair.source.sha256
        if is_changed:
            self.settled[pair.id] = mark(pair.source)
        self._report.settle(
            Entry(key=pair.id), CHANGED if is_changed else COPIED, image=stored, is_sent=True
        )

    def _fail(self, pair: Pair, failure: Failure) -> None:
        """Notes a failure. What the target has of an image that is another one now is removed:
        better missing than wrong."""
        assert pair.source is not None
        if pair.target is not None:
            self._remove(pair)
        entry = entry_of(pair.source)
        self.settled[pair.id] = mark(pair.source)
        self.failures[pair.id] = Record(
            key=pair.id, stamp="", failure=failure, entry=to_json(entry)
        )
        self._report.settle(entry, failure=failure, is_sent=failure.code != "CLIENT")


def _same_content(source: Image, target: Image | None) -> bool:
    return target is not None and source.sha256 == target.sha256
