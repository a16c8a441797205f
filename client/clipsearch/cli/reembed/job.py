"""One run, from the plan to the summary."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import typer

from clipsearch import SearchClient
from clipsearch.cli.index.failures import SUFFIX, is_replaceable, write_failures
from clipsearch.cli.index.patience import Patience
from clipsearch.cli.index.report import FAILED, REFUSED, Report
from clipsearch.cli.output import show_error, show_json
from clipsearch.cli.reembed.copier import CHANGED, COPIED, DELETED, Copier
from clipsearch.cli.reembed.originals import Originals
from clipsearch.cli.reembed.plan import Plan
from clipsearch.cli.reembed.run import Reembedding
from clipsearch.cli.reembed.survey import THERE, Survey
from clipsearch.cli.session import ExitCode, Server

_ORDER = (COPIED, CHANGED, DELETED, THERE, REFUSED, FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to do it: what the command line says, see ``clipsearch reembed --help``."""

    headers: Mapping[str, str]
    max_in_flight: int
    wait_s: float
    settle_s: float
    allow_missing: bool
    failures: Path | None
    as_json: bool


class Job:
    """Fills the target and switches to it; ends early once ``stopping`` is set."""

    def __init__(
        self,
        server: Server,
        plan: Plan,
        found: Survey,
        originals: Originals,
        options: Options,
        stopping: Event,
    ) -> None:
        self._server = server
        self._plan = plan
        self._originals = originals
        self._options = options
        self._stopping = stopping
        self._file = options.failures or Path(f"{plan.target}{SUFFIX}")
        self._report = Report("re-embedding", found.due, as_json=options.as_json, order=_ORDER)
        self._report.counts[THERE] = found.same
        self._previous: dict[str, str] | None = None  # what the aliases stood for, once switched

    def run(self, client: SearchClient) -> bool:
        """Returns whether everything was done. Raises SearchError."""
        _check_writable(self._file)
        plan, options, report = self._plan, self._options, self._report
        if plan.existing is None:
            client.create_collection(
                plan.target,
                model=plan.model.fingerprint,
                prompt_templates=plan.source.prompt_templates,
                indexed_fields=plan.source.indexed_fields,
            )
        copier = Copier(
            client,
            plan.target,
            self._originals,
            report,
            headers=options.headers,
            max_in_flight=options.max_in_flight,
            patience=Patience(client, options.wait_s, report.trouble, self._stopping),
            stopping=self._stopping,
        )
        is_complete = False
        try:
            with report.progress():
                self._run(client, copier)
            is_complete = not self._stopping.is_set()
        finally:
            self._finish(copier, is_complete=is_complete)
        return is_complete and (options.allow_missing or not copier.missing)

    def _run(self, client: SearchClient, copier: Copier) -> None:
        reembedding = Reembedding(client, self._plan, copier, self._stopping)
        if self._plan.is_switched:
            reembedding.catch_up_anew()
        else:
            reembedding.fill()
            if copier.missing and not self._options.allow_missing:
                return
        if self._plan.aliases and not self._stopping.is_set():
            self._previous = reembedding.switch()
            if not self._plan.is_switched:
                reembedding.catch_up(self._options.settle_s)

    def _finish(self, copier: Copier, *, is_complete: bool) -> None:
        plan, missing = self._plan, copier.missing
        notes = []
        try:
            if write_failures(self._file, plan.source.name, missing):
                notes.append(f"what failed: {self._file}")
        finally:
            notes += self._notes(len(missing), is_complete=is_complete)
            self._report.show_summary(skipped=0, notes=notes)
            if self._options.as_json and self._previous is not None:
                for alias, previous in self._previous.items():
                    facts = {"alias": alias, "collection": plan.target}
                    show_json({**facts, "previous_collection": previous})

    def _notes(self, missing: int, *, is_complete: bool) -> list[str]:
        plan = self._plan
        old, new = plan.source.name, plan.target
        if self._previous is not None:
            aliases = ", ".join(self._previous)
            notes = [f"{aliases} now: {new}, and no longer {old}"]
            if not is_complete:
                again = self._command(
                    "reembed", old, "--model", plan.model.fingerprint[:12], "--to", new
                )
                notes.append(f"for what was written to {old} meanwhile: {again}")
            delete = self._command("collections", "delete", old)
            return [*notes, f"when {old} is needed no more: {delete}"]
        if not is_complete:
            return ["stopped before the end; the same command goes on from here"]
        if missing and not self._options.allow_missing:
            kept = f"{old} stays in use" if plan.aliases else "incomplete"
            why = f"{missing:,} of its images are not in {new}"
            return [f"{kept}: {why}; run this again when they can be had, or with --allow-missing"]
        return [f"{new} is complete"]

    def _command(self, *words: str) -> str:
        return shlex.join([*self._server.command, *words])


def _check_writable(file: Path) -> None:
    """Ends the command if the failures cannot be written, or only over something else."""
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        show_error(f"cannot write {file}; --failures names another place")
        raise typer.Exit(ExitCode.USAGE)
    if not is_replaceable(file):
        show_error(f"{file} is not a file of failures; --failures names another place")
        raise typer.Exit(ExitCode.USAGE)
