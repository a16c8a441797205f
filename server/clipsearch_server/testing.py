"""For tests, demos and measurements: a real server, and a real Triton, as processes of their own.

with ServerProcess("--data-dir", folder) as server, SearchClient(server.address) as client:
    ...
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

from clipsearch_server.errors import StartupError


class LoggedProcess:
    """A process whose standard error is read; ``ready`` is what it says there once it serves.

    Entering waits for that, and raises StartupError with what it said if it ends instead; leaving
    stops it as SIGTERM does. What it starts itself ends with it at the latest. What it logs goes to
    ``log_file`` too, if one is given.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
    ) -> None:
        self._command = command
        self._ready = re.compile(ready)
        self._environment = environment
        self._log_file = log_file
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        address: SimpleQueue[str | None] = SimpleQueue()
        self._reader = Thread(target=self._read_log, args=(address,), daemon=True)
        self._reader.start()
        try:
            serving_at = address.get()
        except BaseException:  # Ctrl-C, which this process alone gets
            self.kill()
            raise
        if serving_at is None:
            self._wait()
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
        """What the process has logged so far."""
        return "".join(self._lines)

    def stop(self) -> int:
        """Lets the calls under way finish, stops the process, and returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process as a crash or the lack of memory would: at once."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops the process without ending it: it answers nothing until ``resume``."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join()
        return code

    def _read_log(self, address: SimpleQueue[str | None]) -> None:
        stream = self.process.stderr
        assert stream is not None
        with ExitStack() as stack:
            stack.enter_context(stream)
            file = self._log_file and stack.enter_context(
                self._log_file.open("w", encoding="utf-8")
            )
            for line in stream:
                self._lines.append(line)
                if file:
                    file.write(line)
                    file.flush()
                if match := self._ready.search(line):
                    address.put(match[1])
        address.put(None)


class ServerProcess(LoggedProcess):
    """``clipsearch-server`` with these options, on a free loopback port unless they name one."""

    def __init__(self, *options: str, log_file: Path | None = None) -> None:
        command = [sys.executable, "-m", "clipsearch_server", "--address", "127.0.0.1:0"]
        super().__init__([*command, *options], ready=r"serving address=(\S+)", log_file=log_file)


class TritonProcess(LoggedProcess):
    """NVIDIA's tritonserver on a model repository of the python backend, without Docker.

    ``home`` is where `make .triton/ready` installed it. It listens on loopback, on ``port`` or, if
    that is None, on a free one, which stays reserved until ``release``: it can be started again
    under the same address. This interpreter's environment, which needs numpy and onnxruntime, runs
    the models. Raises OSError if the port is taken.
    """

    def __init__(
        self,
        home: Path,
        models: Path,
        *,
        port: int | None = None,
        log_file: Path | None = None,
    ) -> None:
        triton = home / "pytriton" / "tritonserver"
        # Bound, and never listened on: nobody else gets the port, and Triton shares it.
        self._reservation = socket.socket()
        if port is None:
            self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reservation.bind(("127.0.0.1", 0))
        else:
            self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with self._reservation:
                self._reservation.bind(("127.0.0.1", port))
        reserved = port or self._reservation.getsockname()[1]
        self.reserved_address = f"127.0.0.1:{reserved}"
        super().__init__(
            [
                str(triton / "bin" / "tritonserver"),
                f"--model-repository={models}",
                f"--backend-directory={triton / 'backends'}",
                "--model-control-mode=explicit",
                "--load-model=clip_text",
                "--load-model=clip_vision",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={reserved}",
                f"--reuse-grpc-port={str(port is None).lower()}",
                "--allow-http=false",
                "--allow-metrics=false",
                # Models that hang must not hold up the end of a test or of a demo.
                "--exit-timeout-secs=5",
            ],
            ready=r"Started GRPCInferenceService at ([\w.:]+)",
            # Triton starts the models' interpreter as `python3`, without our variables.
            environment={
                "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
                "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            },
            log_file=log_file,
        )

    def release(self) -> None:
        """Gives the port back."""
        self._reservation.close()
