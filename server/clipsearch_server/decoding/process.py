"""The fork server: a process of one thread, with the decoders loaded, that forks into workers.

Run as ``python -m clipsearch_server.decoding.process``; client.py starts it. A fork of it is ready
in a few milliseconds, where a new Python takes two tenths of a second, and shares its memory with
the others. The server itself cannot fork: gRPC's threads do not survive it.

It ends when its channel does, and its workers end with it. Signals to the process group leave it
alone, because when to stop is its parent's decision.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeAlias

from clipsearch_server.decoding.protocol import Ended, Fork, Kill, Ready, Setup, line, parse
from clipsearch_server.niceness import yield_session_to_others, yield_to_others
from clipsearch_server.parent import die_with

# The socket and the area's descriptor; returns when the socket is closed.
ServeWorker: TypeAlias = Callable[[socket.socket, int], None]

# What Pillow imports when an image first needs it, which a confined worker cannot.
_IMPORTED_LATE = ("PIL.ImageColor", "PIL.TiffImagePlugin")

_RECEIVE_BYTES = 4096
_DESCRIPTORS = 2  # that come with Fork


class _ForkServer:
    def __init__(self, channel: socket.socket, serve: ServeWorker) -> None:
        self._channel = channel
        self._serve = serve
        self._pid = os.getpid()
        self._pids: dict[int, int] = {}  # by the number of the worker
        self._received = b""
        # Written to by the interpreter when a worker ends.
        self._wakeup, self._wakeup_writer = socket.socketpair()

    def run(self) -> None:
        """Forks and kills as it is told, and says what ends, until the channel is closed."""
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wakeup_writer.fileno())
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeup.fileno() in ready:
                self._wakeup.recv(_RECEIVE_BYTES)
                self._report_ended()
            if self._channel.fileno() in ready and not self._receive():
                return

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._channel, _RECEIVE_BYTES, _DESCRIPTORS)
        *lines, self._received = (self._received + data).split(b"\n")
        # The kernel hands out at most one message's descriptors at a time.
        for data_line in lines:
            match parse(data_line):
                case Fork(number):
                    self._fork(number, *descriptors)
                case Kill(number) if number in self._pids:
                    os.kill(self._pids[number], signal.SIGKILL)
        return bool(data)

    def _fork(self, number: int, worker_socket: int, area: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            self._channel.sendall(line(Ended(number, 1)))
        else:
            if not pid:
                self._become_worker(worker_socket, area)
            self._pids[number] = pid
        os.close(worker_socket)
        os.close(area)

    def _become_worker(self, worker_socket: int, area: int) -> NoReturn:
        code = 1
        try:
            die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (self._channel, self._wakeup, self._wakeup_writer):
                inherited.close()
            with socket.socket(fileno=worker_socket) as channel:
                self._serve(channel, area)
            code = 0
        except ConnectionError:  # the server has gone
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _report_ended(self) -> None:
        for number, pid in list(self._pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._pids[number]
                self._channel.sendall(line(Ended(number, os.waitstatus_to_exitcode(status))))


def main() -> None:
    """Loads the decoders, says so, and forks until its channel is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arguments = _parse(sys.argv[1:])
    die_with(arguments.parent)
    yield_to_others()  # and so will the workers
    yield_session_to_others()
    setup = Setup(**json.loads(arguments.setup))
    # numpy's library would start a thread for each core, and threads do not survive a fork.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    # Pillow warns of odd EXIF with a line a tag, of which an image may have 65,000.
    warnings.simplefilter("ignore")
    from clipsearch_server.decoding.worker import serve

    module, _, name = setup.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    for late in _IMPORTED_LATE:
        importlib.import_module(late)
    gc.collect()
    gc.freeze()  # so that workers share these pages: collecting would write to them
    with socket.socket(fileno=arguments.channel) as channel:
        channel.sendall(line(Ready(os.getpid())))
        _ForkServer(channel, partial(serve, function, setup)).run()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clipsearch-decode", description=__doc__)
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket")
    parser.add_argument("--parent", type=int, required=True, help="id of the server's process")
    parser.add_argument("--setup", required=True, help="JSON of protocol.Setup")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
