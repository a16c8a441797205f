"""Reads a source as far as it can be checked without a server."""

from __future__ import annotations

from urllib.parse import urlsplit

from clipsearch import AddOutcome
from clipsearch.cli.index.entry import Entry, EntrySource, Failure, Url, head_of, stamp_of, unsent
from clipsearch.cli.index.formats import SIGNATURES
from clipsearch.cli.index.journal import Journal
from clipsearch.cli.index.report import STORED, WOULD_BE_SENT, Report
from clipsearch.cli.sources import UnreadableError

_MAX_IMAGE_BYTES = 16 * 2**20  # what servers take unless they are told otherwise


def dry_run(
    source: EntrySource, journal: Journal, report: Report, *, retries_refused: bool
) -> None:
    """Reports for each entry whether it would be sent, and shows the summary."""
    with report.progress():
        for entry in source:
            is_new = journal.visit(entry.key)
            outcome, failure = _foresee(entry, journal, retries_refused=retries_refused)
            if not is_new and failure is None:
                outcome = AddOutcome.DUPLICATE
            report.settle(entry, outcome, failure=failure)
    report.show_summary(skipped=source.skipped, notes=[])


def _foresee(
    entry: Entry, journal: Journal, *, retries_refused: bool
) -> tuple[str, Failure | None]:
    if entry.problem is not None:
        return "", entry.problem
    try:
        stamp = stamp_of(entry, _MAX_IMAGE_BYTES)
        known = journal.recall(entry.key)
        if known is not None and known.stamp == stamp:
            if known.failure is None:
                return STORED, None
            if known.failure.is_final and not retries_refused:
                return "", known.failure
        head = head_of(entry, 16)
    except UnreadableError as error:
        return "", unsent(error.reason, str(error))
    if head is not None and not head.startswith(SIGNATURES):
        return "", unsent("IMAGE_FORMAT_UNSUPPORTED", "is no JPEG, PNG, WEBP or GIF")
    if isinstance(entry.origin, Url) and not _may_be_fetched(entry.origin.url):
        return "", unsent("URL_MALFORMED", "is no http or https URL")
    return WOULD_BE_SENT, None


def _may_be_fetched(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
