"""What there is to do, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

from clipsearch import SearchClient
from clipsearch.cli.index.entry import Entry, unsent
from clipsearch.cli.index.report import REFUSED, Report
from clipsearch.cli.reembed.merge import pairs
from clipsearch.cli.reembed.originals import Originals, entry_of
from clipsearch.cli.reembed.plan import Plan, PlanError
from clipsearch.cli.sources import UnreadableError

THERE = "there already"
_FETCHED = "would be fetched"
_READ = "would be read"
_DELETED = "would be deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """How many images there are to copy, to delete, and with nothing to be done."""

    missing: int
    different: int
    surplus: int
    same: int

    @property
    def due(self) -> int:
        return self.missing + self.different + self.surplus


def survey(client: SearchClient, plan: Plan) -> Survey:
    """Looks at both collections without changing anything.

    Raises PlanError if the target is no copy of the source: it would be emptied to become one, or,
    if it is in use, get what does not belong there.
    """
    missing = different = surplus = same = 0
    for pair in pairs(client, plan.source.name, plan.target if plan.existing else None):
        if pair.target is None:
            missing += 1
        elif pair.source is None:
            surplus += 1
        elif pair.is_equal:
            same += 1
        else:
            different += 1
    # What is in use has its own images besides, of which none is deleted.
    shared = same + different
    if surplus and not shared if plan.is_switched else surplus > shared:
        raise PlanError(
            f"{plan.target} holds {surplus:,} images that {plan.source.name} does not, and is no "
            "copy of it; --to names another collection"
        )
    return Survey(missing=missing, different=different, surplus=surplus, same=same)


def dry_run(
    client: SearchClient, plan: Plan, originals: Originals, found: Survey, *, as_json: bool
) -> bool:
    """Reports for each image that is to be copied whether it can be had, as far as that is known
    without fetching it; returns whether all can."""
    order = (_FETCHED, _READ, _DELETED, THERE, REFUSED)
    report = Report("checking", found.due, as_json=as_json, order=order)
    report.counts[THERE] = found.same
    with report.progress():
        for pair in pairs(client, plan.source.name, plan.target if plan.existing else None):
            if pair.is_equal:
                continue
            if pair.source is None:
                report.settle(Entry(key=pair.id), _DELETED)
                continue
            entry = entry_of(pair.source)
            try:
                is_read = originals.read(pair.source) is not None
            except UnreadableError as error:
                report.settle(entry, failure=unsent(error.reason, str(error)))
            else:
                report.settle(entry, _READ if is_read else _FETCHED)
    report.show_summary(skipped=0, notes=[f"{plan.source.name} -> {plan.target}"])
    return not report.failures
