"""The server's end of the fork server and of its workers: starts, asks and stops them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import count
from typing import Self

from clipsearch_server.decoding.area import Area
from clipsearch_server.decoding.protocol import (
    MAX_LINE_BYTES,
    Decode,
    Decoded,
    Ended,
    Fork,
    Kill,
    Message,
    OutOfMemory,
    Ready,
    Refused,
    Setup,
    line,
    parse,
)
from clipsearch_server.errors import DecoderUnavailable, InvalidImage
from clipsearch_server.ports import DecodedImage

# For a Python to start, on a busy machine; a fork takes a few milliseconds.
_START_S = 60.0
_FORK_S = 10.0
# For a worker to exit that has closed its channel; it takes milliseconds.
_EXIT_S = 1.0

# Where Python and the libraries that it loads are found.
_PASSED_VARIABLES = ("PYTHON", "LD_", "DYLD_")


class WorkerDied(Exception):
    """A worker ended while it decoded an image.

    ``code`` is its exit code, of a signal negative, or None if it said that it was out of memory.
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class WorkerLost(Exception):
    """A worker was not there any more before it began with an image, or its fork server ended."""


class Worker:
    """One running worker. One image at a time: who gives up on one must ``kill`` it."""

    def __init__(
        self,
        number: int,
        area: Area,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ended: asyncio.Future[int],
        server: ForkServer,
    ) -> None:
        self._number = number
        self._area = area
        self._reader = reader
        self._writer = writer
        self._ended = ended
        self._server = server
        self.pid = 0
        self.confined_by = ""

    @property
    def is_alive(self) -> bool:
        """False once it is known to have ended."""
        return not (self._ended.done() or self._reader.at_eof())

    async def until_ready(self) -> None:
        """Raises DecoderUnavailable if it cannot start, WorkerLost if its fork server ends."""
        message = await self._receive()
        if not isinstance(message, Ready):
            code = await self._end()
            raise DecoderUnavailable(f"a decoder could not start (it ended with {code})")
        self.pid, self.confined_by = message.pid, message.confined_by

    async def decode(self, content: bytes) -> DecodedImage:
        """Decodes an image. Raises InvalidImage if the worker refuses it; and WorkerDied or
        WorkerLost, after either of which the worker is to be killed."""
        await self._area.put_content(content)
        self._area.has_begun = False
        self._writer.write(line(Decode(len(content))))
        answer = await self._receive()
        if not self._area.has_begun:  # nor is an answer one to this image
            raise WorkerLost
        match answer:
            case Decoded(media_type, width_px, height_px):
                return DecodedImage(self._area.pixels(), media_type, width_px, height_px)
            case Refused(message, reason, metadata):
                raise InvalidImage(message, reason=reason, **metadata)
            case OutOfMemory():
                raise WorkerDied(None)
            case _:
                raise WorkerDied(await self._end())

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        self._server.kill(self._number)
        self.close()

    def close(self) -> None:
        """Lets go of it: one that is alive ends when it is done, unless an image has taken it
        over."""
        self._writer.close()
        self._area.close()

    async def _receive(self) -> Message | None:
        """Returns None if the worker has ended, or talks nonsense."""
        try:
            data = await self._reader.readline()
            return parse(data) if data.endswith(b"\n") else None
        except (ConnectionError, ValueError):
            return None

    async def _end(self) -> int:
        """Returns its exit code. One that still has its channel is killed, and one that has closed
        it only if it stays: being killed would hide what it exits with."""
        if self._reader.at_eof():
            await asyncio.wait({self._ended}, timeout=_EXIT_S)
        self._server.kill(self._number)
        return await self._ended


class ForkServer:
    """A running fork server. When it ends, all its workers do."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        setup: Setup,
    ) -> None:
        self._process = process
        self._channel = channel
        self._reader = reader
        self._writer = writer
        self._setup = setup
        self._numbers = count(1)
        self._ends: dict[int, asyncio.Future[int]] = {}  # by the number of the worker
        self._receiver: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, setup: Setup) -> Self:
        """Starts a fork server; returns when it can fork. Raises DecoderUnavailable."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # A session of its own keeps a terminal's Ctrl-C from it, and the terminal from what
                # an image may do. Started in the thread of the event loop, not in a worker: it
                # dies with the thread that started it.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "clipsearch_server.decoding.process"),
                    *("--channel", str(theirs.fileno()), "--parent", str(os.getpid())),
                    *("--setup", json.dumps(asdict(setup))),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=_environment(),
                )
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        except OSError as error:
            ours.close()
            raise DecoderUnavailable(f"no decoder can be started: {error}") from error
        except BaseException:
            ours.close()  # which also ends the process, should it have started
            raise
        started = cls(process, ours, reader, writer, setup)
        try:
            await started._ready()
        except BaseException:
            await started.stop()
            raise
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._receiver is not None and not self._receiver.done()

    async def fork(self) -> Worker:
        """Returns a new worker, ready. Raises DecoderUnavailable if there cannot be one now, and
        WorkerLost if the fork server ends."""
        with ExitStack() as unused:
            try:
                area = Area.create(
                    (3, self._setup.size_px, self._setup.size_px), self._setup.max_bytes
                )
                unused.callback(area.close)
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise DecoderUnavailable(f"no decoder can be started: {error}") from error
            unused.enter_context(ours)
            unused.enter_context(theirs)
            reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
            unused.pop_all()
        number = next(self._numbers)
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        worker = Worker(number, area, reader, writer, ended, self)
        try:
            async with asyncio.timeout(_FORK_S):
                with theirs:
                    self._ask(Fork(number), theirs.fileno(), area.descriptor)
                    self._ends[number] = ended
                await worker.until_ready()
        except TimeoutError as error:
            self._process.kill()  # it hangs; the next one is another's
            worker.close()
            raise DecoderUnavailable("no decoder can be started; try again later") from error
        except BaseException:
            worker.kill()
            raise
        return worker

    def kill(self, number: int) -> None:
        """Ends a worker, if it has not ended."""
        if number in self._ends:
            with suppress(WorkerLost):  # the fork server has ended, and so has the worker
                self._ask(Kill(number))

    async def stop(self) -> None:
        """Ends it and its workers."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if self._receiver is not None:
            await asyncio.wait({self._receiver})
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _ready(self) -> None:
        async with asyncio.timeout(_START_S):
            data = await self._reader.readline()
            if not data:
                code = await self._process.wait()
                cause = (
                    f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
                )
                raise DecoderUnavailable(
                    f"the process that decodes images {cause}; see the lines before this one"
                )
        self._receiver = asyncio.create_task(self._receive_ends(), name="decode-receiver")

    async def _receive_ends(self) -> None:
        try:
            while data := await self._reader.readline():
                match parse(data):
                    case Ended(number, code):
                        ended = self._ends.pop(number)
                        if not ended.done():
                            ended.set_result(code)
        except ConnectionError:
            pass
        finally:
            for ended in self._ends.values():
                if not ended.done():
                    ended.set_exception(WorkerLost())
                    ended.exception()  # seen, should nobody ask
            self._ends.clear()

    def _ask(self, message: Message, *descriptors: int) -> None:
        if not self.is_alive:
            raise WorkerLost
        try:
            # Past the stream, which knows no descriptors and is not written to. It never blocks:
            # what is under way are a few small messages.
            socket.send_fds(self._channel, [line(message)], descriptors)
        except OSError as error:
            raise WorkerLost from error


def _environment() -> dict[str, str]:
    """What starting Python may need. The rest holds secrets, such as the index's key, which an
    image that takes a worker over could have it answer with."""
    ours = os.environ  # noqa: TID251 - to pass on, not to read settings from
    return {name: value for name, value in ours.items() if name.startswith(_PASSED_VARIABLES)}
