"""For tests, demos and measurements: a real server as a process of its own.

with ServerProcess("--data-dir", folder) as server, SearchClient(server.address) as client:
    ...
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

from clipsearch_server.errors import StartupError


class ServerProcess:
    """Runs ``clipsearch-server`` with these options, on a free loopback port unless they name one.

    Entering waits until it serves, and raises StartupError with what it said if it does not;
    leaving stops it as SIGTERM does. What it logs goes to ``log_file``, if one is given.
    """

    def __init__(self, *options: str, log_file: Path | None = None) -> None:
        self._options = options
        self._log_file = log_file
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "clipsearch_server", "--address", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *self._options], stderr=subprocess.PIPE, text=True
        )
        address: SimpleQueue[str | None] = SimpleQueue()
        self._reader = Thread(target=self._read_log, args=(address,), daemon=True)
        self._reader.start()
        serving_at = address.get()
        if serving_at is None:
            self._reader.join()
            self.process.wait()
            raise StartupError("".join(self._lines).strip())
        self.address = serving_at
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return "".join(self._lines)

    def stop(self) -> int:
        """Lets the calls under way finish, stops the server, and returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server as a crash or the lack of memory would: at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait()
        self._reader.join()
        return code

    def _read_log(self, address: SimpleQueue[str | None]) -> None:
        stream = self.process.stderr
        assert stream is not None
        file = self._log_file.open("w", encoding="utf-8") if self._log_file else None
        for line in stream:
            self._lines.append(line)
            if file:
                file.write(line)
                file.flush()
            if match := re.search(r"serving address=(\S+)", line):
                address.put(match[1])
        stream.close()
        if file:
            file.close()
        address.put(None)
