"""Looks and copies until both collections agree, switches, and looks for what came between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

from clipsearch import SearchClient
from clipsearch.cli.reembed.copier import Copier
from clipsearch.cli.reembed.merge import Pair, mark, pairs, version
from clipsearch.cli.reembed.plan import Plan, PlanError

_MAX_LOOKS = 10  # before the switch; writes that never pause are caught up with after it
_PAUSE_S = 1.0


class Reembedding:
    """The passes over both collections; each ends early once ``stopping`` is set.

    Every method raises SearchError, and PlanError if others have changed the plan's aliases.
    """

    def __init__(self, client: SearchClient, plan: Plan, copier: Copier, stopping: Event) -> None:
        self._client = client
        self._plan = plan
        self._copier = copier
        self._stopping = stopping
        self._found = 0
        self._is_complete = False  # whether the last look came to the end of both collections

    def fill(self) -> None:
        """Has the target agree with the source, but for failures."""
        looks = 0
        while looks < _MAX_LOOKS and not self._stopping.is_set():
            self._copier.check_unused()
            self._look(self._due())
            looks += self._is_complete
            if self._is_complete and not self._found:
                return

    def switch(self) -> dict[str, str]:
        """Lets the aliases stand for the target; returns what each stood for before."""
        source, target = self._plan.source.name, self._plan.target
        now = {alias: it.name for it in self._client.list_collections() for alias in it.aliases}
        for alias in self._plan.aliases:
            if now.get(alias) not in (source, target):
                raise PlanError(
                    f"{alias} stands for {now.get(alias, 'nothing')} by now, and no longer for "
                    f"{source}: nothing is switched; {target} is filled"
                )
        return {
            alias: self._client.set_alias(alias, self._plan.target) for alias in self._plan.aliases
        }

    def catch_up(self, settle_s: float) -> None:
        """Brings the target what was written to the source after the last look, until ``settle_s``
        from now: an add that began before the switch may end after it.

        This is a merge of three: what the source and the target were at the last look, and both as
        they are. What changed in the target since stays.
        """
        end_s = time.monotonic() + settle_s
        while not self._stopping.is_set():
            is_last = time.monotonic() >= end_s
            self._look(self._due_since(), is_in_use=True)
            if is_last and self._is_complete:
                return
            self._stopping.wait(min(_PAUSE_S, max(end_s - time.monotonic(), 0)))

    def catch_up_anew(self) -> None:
        """The same for a run that knows nothing of the last look: brings what is newer in the
        source or missing in the target."""
        while not self._stopping.is_set():
            self._look(self._newer(), is_in_use=True)
            if self._is_complete:
                return

    def _look(self, due: Iterator[Pair], *, is_in_use: bool = False) -> None:
        self._found = 0
        self._is_complete = False
        self._copier.copy(due, is_in_use=is_in_use)

    def _pairs(self) -> Iterator[Pair]:
        yield from pairs(self._client, self._plan.source.name, self._plan.target)
        self._is_complete = True

    def _due(self) -> Iterator[Pair]:
        copier = self._copier
        copier.look.clear()
        for pair in self._pairs():
            copier.look.note(pair)
            if not pair.is_equal and copier.settled.get(pair.id) != mark(pair.source):
                self._found += 1
                yield pair

    def _due_since(self) -> Iterator[Pair]:
        look = self._copier.look
        for pair in self._pairs():
            is_written = mark(pair.source) != look.source(pair.id)
            look.note_source(pair.id, pair.source)
            if is_written and version(pair.target) == look.target(pair.id) and not pair.is_equal:
                yield pair

    def _newer(self) -> Iterator[Pair]:
        for pair in self._pairs():
            self._copier.look.note(pair)
            source, target = pair.source, pair.target
            if source is None or pair.is_equal:
                continue
            if target is None or source.update_time > target.update_time:
                yield pair
