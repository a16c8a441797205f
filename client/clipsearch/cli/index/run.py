"""One run over a source, from the opened journal to the summary."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import typer

from clipsearch import Collection, NotFoundError, SearchClient
from clipsearch.cli.index.entry import EntrySource
from clipsearch.cli.index.failures import FailuresFile, is_replaceable, write_failures
from clipsearch.cli.index.hash_table import HashTable, hash64
from clipsearch.cli.index.journal import Binding, Journal
from clipsearch.cli.index.read_ahead import ReadAhead, Reader
from clipsearch.cli.index.report import Report
from clipsearch.cli.index.sender import Sender, Sending
from clipsearch.cli.output import show_error
from clipsearch.cli.session import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The files of a run. ``name`` is the source's, None if a file of failures does not tell."""

    name: str | None
    source: Path
    journal: Path
    failures: Path

    def check_writable(self) -> None:
        """Ends the command if the journal or the failures cannot be written, or if writing them
        would destroy something else."""
        for option, file in (("--journal", self.journal), ("--failures", self.failures)):
            if not os.access(file if file.exists() else file.parent, os.W_OK):
                show_error(f"cannot write {file}; {option} names another place")
                raise typer.Exit(ExitCode.USAGE)
        is_same = self.failures.resolve() == self.journal.resolve()
        is_read = self.failures == self.source  # by --retry, which found failures there
        if is_same or not (is_read or is_replaceable(self.failures)):
            show_error(f"{self.failures} is not a file of failures; --failures names another place")
            raise typer.Exit(ExitCode.USAGE)


class Run:
    """A run, which ends early once ``stopping`` is set."""

    def __init__(
        self, places: Places, entries: EntrySource, report: Report, *, is_retry: bool
    ) -> None:
        self.stopping = Event()
        self._places = places
        self._entries = entries
        self._report = report
        self._is_retry = is_retry

    def __call__(
        self, client: SearchClient, binding: Binding, sending: Sending, *, restart: bool, again: str
    ) -> None:
        """Sends the source; ``again`` is the command that the summary names for what failed.

        Raises JournalError, FormatError, OSError and SearchError.
        """
        limits = client.server_info().limits
        bound = _bind(binding, client.get_collection(sending.collection))
        with Journal(self._places.journal, bound, restart=restart) as journal:
            if not self._is_to_be_trusted(client, journal, sending.collection):
                show_error("the server no longer has what the journal says; starting anew")
                journal.start_anew()
            retried = self._take_over(journal) if self._is_retry else None
            reader = Reader(
                journal=journal,
                max_bytes=limits.max_image_bytes,
                retries_refused=self._is_retry,
            )

            def check_server() -> None:
                collection = client.get_collection(sending.collection)
                if _bind(binding, collection) != bound or not self._is_to_be_trusted(
                    client, journal, sending.collection
                ):
                    show_error(
                        "the server is back with another model or without the images that were "
                        "stored; run the same command again"
                    )
                    raise typer.Exit(ExitCode.FAILED)

            sender = Sender(
                client,
                journal,
                self._report,
                sending,
                check_server=check_server,
                stopping=self.stopping,
            )
            is_complete = False
            try:
                with (
                    self._report.progress(),
                    ReadAhead(self._entries, reader.read, self.stopping) as parcels,
                ):
                    sender.send(parcels)
                    is_complete = not self.stopping.is_set()
            finally:
                is_wanted = _wanted(journal, retried, is_complete=is_complete)
                self._finish(journal, is_wanted, is_complete=is_complete, again=again)

    def _is_to_be_trusted(self, client: SearchClient, journal: Journal, collection: str) -> bool:
        """Whether the server has what the journal says. To a retry that does not matter, and the
        next run over the source, which can send what is lost, finds it out."""
        return self._is_retry or _holds_what_it_should(client, journal, collection)

    def _take_over(self, journal: Journal) -> HashTable:
        """Has the journal know all that the file of failures holds; returns its keys' hashes."""
        assert isinstance(self._entries, FailuresFile)
        keys = HashTable()
        for record in self._entries.records():
            keys[hash64(record.key)] = 1
            if journal.recall(record.key) is None:
                journal.write(record)
        return keys

    def _finish(
        self,
        journal: Journal,
        is_wanted: Callable[[str], bool],
        *,
        is_complete: bool,
        again: str,
    ) -> None:
        places = self._places
        notes = []
        try:
            failures = (it for it in journal.failures() if is_wanted(it.key))
            if write_failures(places.failures, places.name or "", failures):
                notes = [f"what failed:  {places.failures}", f"try it again: {again}"]
        finally:
            if not is_complete and len(journal):
                notes.append("stopped before the end; the same command goes on from here")
            self._report.show_summary(skipped=self._entries.skipped, notes=notes)


def _wanted(
    journal: Journal, retried: HashTable | None, *, is_complete: bool
) -> Callable[[str], bool]:
    """Returns which of the journal's failures belong into the file: all that were retried; or those
    of what the source holds, which only a run to its end knows."""
    if retried is not None:
        return lambda key: hash64(key) in retried
    return journal.is_visited if is_complete else lambda key: True


def _bind(binding: Binding, collection: Collection) -> Binding:
    # By its own name: an alias may stand for another one next time.
    return Binding(binding.source, binding.server, collection.name, collection.model_fingerprint)


def _holds_what_it_should(client: SearchClient, journal: Journal, collection: str) -> bool:
    """Whether the server has a sample of what the journal says it has."""
    for image_id in journal.sample_ids():
        try:
            client.get_image(image_id, collection=collection)
        except NotFoundError:
            return False
    return True
