"""The server's end of an index process: starts it, asks it, stops it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from clipsearch_server.errors import DeadlineExceeded, IndexUnavailable, StartupError
from clipsearch_server.indexes.edge.protocol import (
    LENGTH_BYTES,
    READY,
    Delete,
    Forget,
    Ordered,
    Request,
    Upsert,
    body_length,
    frame,
    unframe,
)
from clipsearch_server.ports import Revision

_log = logging.getLogger(__name__)

_numbers = itertools.count()  # of the processes started, so that none is taken for another

_STOP_S = 10.0  # for the answers that are due and a flush; then it is killed, and loses nothing


class EdgeProcess:
    """One running index process, with its shard open.

    Requests are pipelined: each is answered under its own id. When the process ends, unasked or
    not, whoever still waits gets IndexUnavailable, and so does everyone after.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._last_id = READY
        self._waiting: dict[int, asyncio.Future[Any]] = {}  # until answered, called for or not
        self._changing: set[int] = set()  # of them, those that change the shard
        self._changes = 0  # that were answered
        self._number = next(_numbers)
        self._unsent: list[bytes] = []  # what this turn of the event loop has asked
        self._receiver: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.abandoned = 0  # requests not answered yet, whose callers have gone

    @classmethod
    async def start(
        cls,
        folder: Path,
        *,
        lock: int,
        create_dim: int | None = None,
        nice: int = 0,
    ) -> Self:
        """Starts a process that opens the shard in a folder, or creates it for ``create_dim``
        dimensions; returns when that is done. The process inherits the descriptor ``lock``.

        Raises StartupError naming the folder or file if the shard cannot be opened, StorageFull or
        IndexUnavailable if it cannot be created, OSError if no process can be started.
        """
        ours, theirs = socket.socketpair()
        arguments = ["--parent", str(os.getpid()), "--channel", str(theirs.fileno())]
        arguments += ["--folder", str(folder)]
        arguments += [] if create_dim is None else ["--create", str(create_dim)]
        try:
            with theirs:
                # A process group of its own keeps a terminal's Ctrl-C from it; in a session of its
                # own, niceness would not count against ours (sched(7), autogroup). Started in the
                # thread of the event loop, not in a worker: it dies with the thread that started
                # it.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "clipsearch_server.indexes.edge.process"),
                    *(*arguments, "--nice", str(nice)),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lock),
                    process_group=0,
                )
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # which also ends the process, should it have started
            raise
        started = cls(process, reader, writer)
        try:
            await started._ready(folder)
        except BaseException:
            await started.kill()
            raise
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def revision(self) -> Revision | None:
        """Stands for what the shard holds; None while that may change."""
        if self._changing or self.ended.is_set():
            return None
        return self._number, self._changes

    async def call(self, request: Request, timeout_s: float | None = None) -> Any:
        """Returns the answer that the request's docstring promises.

        The request is on its way before this first gives way to another task, so requests cross in
        the order of their calls. Whoever gives up on a read spares the process the work, unless it
        has begun. Raises what the process answers with (StorageFull, IndexUnavailable, ValueError),
        IndexUnavailable if it ends first, DeadlineExceeded.
        """
        if self.ended.is_set():
            raise IndexUnavailable("the index process has stopped; it is being restarted")
        self._last_id += 1
        message_id = self._last_id
        answer = self._waiting[message_id] = asyncio.get_running_loop().create_future()
        if isinstance(request, Upsert | Delete):
            self._changing.add(message_id)
        self._send(message_id, request)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(f"the index did not answer within {timeout_s:g} s") from error
        finally:
            if message_id in self._waiting:
                self.abandoned += 1
                if not isinstance(request, Ordered):
                    self._send(message_id, Forget())

    async def stop(self) -> None:
        """Lets the process answer what it was asked, flush and exit."""
        self._flush()
        if not self._writer.is_closing():
            self._writer.write_eof()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    if code := await self._process.wait():
                        _log.warning("the index process %d stopped with %d", self.pid, code)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Ends the process at once. What it acknowledged is on disk."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if self._receiver is not None:
            await asyncio.wait({self._receiver})
        self._writer.close()

    def _send(self, message_id: int, request: Request | Forget) -> None:
        """Sends a request, at the end of this turn of the event loop: those that many callers make
        in it cost one system call, and writes among them one update of the shard."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame(message_id, request))

    def _flush(self) -> None:
        if self._unsent:
            self._writer.write(b"".join(self._unsent))
            self._unsent.clear()

    async def _ready(self, folder: Path) -> None:
        try:
            _, error = await self._receive()
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self._process.wait()
            cause = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
            hint = " (is the disk full?)" if code == -signal.SIGBUS else ""
            raise StartupError(
                f"{folder}: cannot be opened: the index process {cause}{hint}; see the lines "
                "before this one"
            ) from None
        if error is not None:
            raise error
        self._receiver = asyncio.create_task(self._receive_answers(), name="edge-receiver")

    async def _receive_answers(self) -> None:
        try:
            while True:
                message_id, content = await self._receive()
                answer = self._waiting.pop(message_id)
                if message_id in self._changing:
                    self._changing.remove(message_id)
                    self._changes += 1
                if answer.done():  # its caller has gone
                    self.abandoned -= 1
                    continue
                if isinstance(content, Exception):
                    answer.set_exception(content)
                else:
                    answer.set_result(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(IndexUnavailable("the index process stopped"))
            self._waiting.clear()

    async def _receive(self) -> tuple[int, Any]:
        prefix = await self._reader.readexactly(LENGTH_BYTES)
        return unframe(await self._reader.readexactly(body_length(prefix)))
