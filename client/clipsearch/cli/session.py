"""From the global options to a client, and from its errors to a line and an exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType

import typer

from clipsearch import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    SearchClient,
    SearchError,
    UnauthenticatedError,
    UnavailableError,
)
from clipsearch.cli.output import show_error

DEFAULT_SERVER = "localhost:50051"


class ExitCode(IntEnum):
    """What the command's exit codes mean; ``clipsearch --help`` says the same."""

    OK = 0
    INCOMPLETE = 1  # some images or texts were refused, or there is no such image
    USAGE = 2  # the command line, or a value in it, is wrong
    UNREACHABLE = 3  # no answer, or none in time
    FAILED = 4  # the server refused or failed


_EXIT_CODES: dict[type[SearchError], ExitCode] = {
    InvalidRequestError: ExitCode.USAGE,
    NotFoundError: ExitCode.INCOMPLETE,
    UnavailableError: ExitCode.UNREACHABLE,
    DeadlineExceededError: ExitCode.UNREACHABLE,
    SearchError: ExitCode.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server is and how to talk to it: the global options."""

    target: str
    timeout_s: float
    tls: bool
    ca_file: Path | None
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None  # where the key is from; None: from the environment
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def command(self) -> list[str]:
        """The words with which a command for this server begins: all but the key itself."""
        words = ["clipsearch"]
        if self.target != DEFAULT_SERVER:
            words += ["--server", self.target]
        if self.ca_file is not None:
            words += ["--ca", str(self.ca_file)]
        elif self.tls:
            words.append("--tls")
        for option, file in (
            ("--cert", self.cert_file),
            ("--key", self.key_file),
            ("--api-key-file", self.api_key_file),
        ):
            if file is not None:
                words += [option, str(file)]
        return words

    def open_client(self) -> SearchClient:
        """Returns a client. Ends the command with one line if the options do not go together."""
        try:
            return SearchClient(
                self.target,
                timeout_s=self.timeout_s,
                tls=self.tls,
                ca_file=self.ca_file,
                api_key=self.api_key,
                client_cert_file=self.cert_file,
                client_key_file=self.key_file,
            )
        except ValueError as error:
            show_error(f"{error}; see --tls, --ca, --cert and --key in `clipsearch --help`")
            raise typer.Exit(ExitCode.USAGE) from error


def _nothing() -> None:
    pass


@contextmanager
def connect(
    context: typer.Context, *, on_interrupt: Callable[[], None] = _nothing
) -> Iterator[SearchClient]:
    """Yields a client of the server that the global options name.

    Ctrl-C closes it, which ends the call under way; ``on_interrupt`` is called first, in a thread,
    to end what the command waits for besides.
    A SearchError ends the command with one line on stderr and the exit code for it; so do
    arguments that are no text, which no message can carry.
    """
    server: Server = context.obj
    try:
        with server.open_client() as client, _interruptible(client, on_interrupt):
            yield client
    except SearchError as error:
        show_error(_explain(error))
        raise typer.Exit(_exit_code(error)) from error
    except UnicodeEncodeError as error:
        show_error("an argument is not UTF-8")
        raise typer.Exit(ExitCode.USAGE) from error


@contextmanager
def _interruptible(client: SearchClient, on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Has Ctrl-C end the call that is under way, and raises KeyboardInterrupt when it has ended.

    Python would raise it wherever the main thread is. Within gRPC that leaves a lock taken, for
    which everything then waits for ever, the closing of the client first (tried: one Ctrl-C in
    ten). The second Ctrl-C is Python's all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield  # `nohup`, or a script's `&`: Ctrl-C at the terminal is not for this command
        return
    is_interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        signal.signal(signal.SIGINT, former)
        # Not here: the main thread may hold the lock that closing takes.
        threading.Thread(target=end_calls, daemon=True).start()

    def end_calls() -> None:
        on_interrupt()
        client.close()

    former = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except (SearchError, ValueError) as error:  # ValueError: gRPC's, of a call on a closed channel
        if is_interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, former)
    if is_interrupted:
        raise KeyboardInterrupt


def _explain(error: SearchError) -> str:
    if isinstance(error, UnavailableError) and not error.reason:
        return f"{error}; start a server with `clipsearch-server`, or name one with --server"
    if isinstance(error, DeadlineExceededError):
        return f"{error}; --timeout allows it more"
    if isinstance(error, UnauthenticatedError):
        return f"{error}; --api-key-file or CLIPSEARCH_API_KEY brings one"
    return str(error)


def _exit_code(error: SearchError) -> ExitCode:
    return next(_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES)
