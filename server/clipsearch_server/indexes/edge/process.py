"""The main loop of an index process: one shard, one channel, one thread.

Run as ``python -m clipsearch_server.indexes.edge.process``; client.py starts it. Reads and
ordered requests wait in two queues. Each turn answers a few reads, searches together, and then one
small batch of writes: so a search waits for a few milliseconds of writing at most, and writes go on
under a load of searches. Concurrent small upserts become one update of the shard.

The process ends when its channel does: it answers what it was asked, flushes and exits. Signals to
the process group leave it alone, because when to stop is its parent's decision.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast
from uuid import UUID

from clipsearch_server.errors import ClipsearchError
from clipsearch_server.indexes.edge.protocol import (
    LENGTH_BYTES,
    MAX_POINTS,
    READY,
    CopyIds,
    CopyPage,
    Count,
    CreateIndex,
    Delete,
    Find,
    Flush,
    Forget,
    Get,
    GetEmbeddings,
    GetStats,
    Hits,
    Optimize,
    Ordered,
    OtherRead,
    Probe,
    Read,
    Request,
    Scroll,
    Search,
    Upsert,
    body_length,
    frame,
    unframe,
)
from clipsearch_server.indexes.edge.shard import Shard
from clipsearch_server.parent import die_with

if TYPE_CHECKING:
    import qdrant_edge as edge

_MAX_READS = 8  # answered in a turn, before the next write
_RECEIVE_BYTES = 2**20

# A flush stops everything for a tenth of a second or more, so it waits for a quiet moment. It does
# not wait for ever: what is not flushed is lost with the power, and is replayed when the shard is
# opened again, at 13,000 points a second.
_FLUSH_WHEN_IDLE_S = 1.0
_FLUSH_AFTER_S = 300.0
_FLUSH_AFTER_POINTS = 10_000

_log = logging.getLogger(__name__)


class _Inbox:
    """What arrives on the channel, sorted into the two queues."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        # Not select: the server passes its own descriptor's number, which may exceed 1,023.
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._buffer = bytearray()
        self.reads: deque[tuple[int, Read | None]] = deque()  # None: nobody waits for it
        self.ordered: deque[tuple[int, Ordered]] = deque()
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self.reads or self.ordered)

    def receive(self, timeout_s: float | None) -> bool:
        """Waits for something to arrive and takes it in; returns whether anything did."""
        if self.closed or (timeout_s and not self._poll.poll(timeout_s * 1000)):
            return False
        flags = 0 if timeout_s is None else socket.MSG_DONTWAIT
        try:
            data = self._channel.recv(_RECEIVE_BYTES, flags)
        except BlockingIOError:
            return False
        self.closed = not data
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + body_length(self._buffer)
            if len(self._buffer) < end:
                break
            self._sort(*unframe(self._buffer[LENGTH_BYTES:end]))
            del self._buffer[:end]
        return True

    def _sort(self, message_id: int, request: Request | Forget) -> None:
        match request:
            case Forget():
                for place, (waiting_id, _) in enumerate(self.reads):
                    if waiting_id == message_id:
                        self.reads[place] = (message_id, None)
            case GetStats() | Probe():
                # Asked to see whether we work, and not how much there is to do.
                self.reads.appendleft((message_id, request))
            case Search() | Get() | GetEmbeddings() | Find() | Scroll() | Count():
                self.reads.append((message_id, request))
            case _:
                self.ordered.append((message_id, request))


# A search, under its message's id, and how many hits of each query are returned.
_Converted: TypeAlias = "tuple[int, list[edge.QueryRequest], list[int | None]]"


class _Server:
    def __init__(self, shard: Shard, channel: socket.socket) -> None:
        self._shard = shard
        self._channel = channel
        self._inbox = _Inbox(channel)
        self._replies: list[bytes] = []  # to be sent together
        self._unflushed = 0  # points
        self._unflushed_since = 0.0  # in time.monotonic's seconds

    def serve(self) -> None:
        """Answers requests until the channel is closed and the last is answered."""
        inbox = self._inbox
        while inbox or not inbox.closed:
            if inbox:
                inbox.receive(timeout_s=0)
                self._answer_reads()
                self._send()
                self._answer_ordered()
                self._send()
                idle = False
            else:
                idle = not inbox.receive(_FLUSH_WHEN_IDLE_S if self._unflushed else None)
            if self._unflushed and (idle or self._flush_is_due()):
                self._flush()

    def _answer_reads(self) -> None:
        """Answers the oldest few reads, the searches among them together."""
        reads = self._inbox.reads
        few = [reads.popleft() for _ in range(min(len(reads), _MAX_READS))]
        searches: list[_Converted] = []
        for message_id, request in few:
            match request:
                case None:
                    self._reply(message_id, None)
                case Search(queries, hnsw_ef):
                    try:
                        converted = self._shard.convert_queries(queries, hnsw_ef)
                        searches.append((message_id, converted, [it.first for it in queries]))
                    except (ClipsearchError, ValueError) as error:
                        self._reply(message_id, error)
                case _:
                    self._answer([message_id], partial(self._read, request))
        if searches:
            self._send()
            self._answer_searches(searches)

    def _answer_searches(self, searches: Sequence[_Converted]) -> None:
        try:
            requests = [request for _, some, _ in searches for request in some]
            wanted = [first for _, _, firsts in searches for first in firsts]
            answers = iter(self._shard.search(requests, wanted))
            replies = [
                (message_id, [self._hits(next(answers), first) for first in firsts])
                for message_id, _, firsts in searches
            ]
        except ClipsearchError as error:
            if len(searches) == 1:
                self._reply(searches[0][0], error)
            else:  # one of them may be to blame
                for search in searches:
                    self._answer_searches([search])
            return
        for message_id, reply in replies:
            self._reply(message_id, reply)

    def _hits(self, ranking: Sequence[tuple[UUID, float]], first: int | None) -> Hits:
        if first is None:
            return [(image_id, score, None) for image_id, score in ranking]
        # These are shown, so that their payloads are wanted next: that saves another message.
        payloads = dict(self._shard.get([image_id for image_id, _ in ranking]))
        return [(image_id, score, payloads.get(image_id)) for image_id, score in ranking]

    def _read(self, request: OtherRead) -> object:
        match request:
            case Get(ids):
                return self._shard.get(ids)
            case GetEmbeddings(ids):
                return self._shard.get_embeddings(ids)
            case Find(image_id, sha256):
                return self._shard.get([image_id]), self._shard.find_content(sha256)
            case Scroll(limit, start_id):
                return self._shard.scroll(limit, start_id)
            case Count():
                return self._shard.count()
            case GetStats():
                return self._shard.stats()
            case Probe(query):
                self._shard.search(self._shard.convert_queries([query]), [query.first])
                return None

    def _answer_ordered(self) -> None:
        if not self._inbox.ordered:
            return
        message_id, request = self._inbox.ordered.popleft()
        match request:
            case Upsert():
                self._answer_upserts(message_id, request)
            case Delete(ids):
                self._answer([message_id], partial(self._shard.delete, ids))
                self._note_written(len(ids))
            case CopyPage(limit, start_id):
                self._answer([message_id], partial(self._shard.copy_page, limit, start_id))
            case CopyIds(ids):
                self._answer([message_id], partial(self._shard.copy_ids, ids))
            case Flush():
                self._answer([message_id], self._shard.flush)
                self._unflushed = 0
            case CreateIndex(field):
                self._answer([message_id], partial(self._shard.create_index, field))
            case Optimize():
                self._answer([message_id], self._shard.optimize)

    def _answer_upserts(self, message_id: int, request: Upsert) -> None:
        """Stores the points of a request together with those of the upserts that follow it."""
        ordered = self._inbox.ordered
        answered, points = [], []
        size = 0
        while True:
            size += len(request.points.ids)
            try:
                points += self._shard.convert(request.points)
                answered.append(message_id)
            except ValueError as error:
                self._reply(message_id, error)
            if not (ordered and isinstance(ordered[0][1], Upsert)):
                break
            if size + len(ordered[0][1].points.ids) > MAX_POINTS:
                break
            message_id, request = cast(tuple[int, Upsert], ordered.popleft())
        if points:
            self._answer(answered, partial(self._shard.upsert, points))
            self._note_written(len(points))

    def _answer(self, message_ids: Sequence[int], work: Callable[[], object]) -> None:
        try:
            outcome = work()
        except ClipsearchError as error:
            outcome = error
        for message_id in message_ids:
            self._reply(message_id, outcome)

    def _note_written(self, points: int) -> None:
        if not self._unflushed:
            self._unflushed_since = time.monotonic()
        self._unflushed += points

    def _flush_is_due(self) -> bool:
        age_s = time.monotonic() - self._unflushed_since
        return self._unflushed >= _FLUSH_AFTER_POINTS or age_s >= _FLUSH_AFTER_S

    def _flush(self) -> None:
        try:
            self._shard.flush()
        except ClipsearchError as error:  # the log still has everything; try after the next writes
            _log.warning("the index could not be flushed: %s", error)
        self._unflushed = 0

    def _reply(self, message_id: int, content: object) -> None:
        self._replies.append(frame(message_id, content))

    def _send(self) -> None:
        if self._replies:
            self._channel.sendall(b"".join(self._replies))
            self._replies.clear()


def main() -> None:
    """Opens or creates the shard, says so or why not, and serves it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arguments = _parse(sys.argv[1:])
    # The log makes dying at once safe, and the folder is free for the next server.
    die_with(arguments.parent)
    os.nice(arguments.nice)
    with socket.socket(fileno=arguments.channel) as channel:
        try:
            if arguments.create is None:
                shard = Shard.open(arguments.folder)
            else:
                shard = Shard.create(arguments.folder, arguments.create)
        except ClipsearchError as error:
            channel.sendall(frame(READY, error))
            return
        with suppress(ConnectionError):  # the parent has gone without waiting for its answers
            channel.sendall(frame(READY, None))
            _Server(shard, channel).serve()
        shard.close()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clipsearch-edge", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="id of the parent's process")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket")
    parser.add_argument("--folder", type=Path, required=True, help="of the shard")
    parser.add_argument("--create", type=int, metavar="DIM", help="create it, for this dimension")
    parser.add_argument("--nice", type=int, default=0, help="give way to others: 0 to 19")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
