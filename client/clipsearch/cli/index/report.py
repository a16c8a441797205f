"""What became of the images: told as it happens, counted, and summed up."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from clipsearch import AddOutcome, Image
from clipsearch.cli.index.entry import Entry, Failure
from clipsearch.cli.output import new_table, show_json, stderr, stdout, visible

_LOG_EVERY_S = 30.0  # where there is no terminal
_RATE_WINDOW_S = 30.0
_MAX_REASONS = 20

STORED = "stored already"
WOULD_BE_SENT = "would be sent"
REFUSED = "refused"  # for good
FAILED = "failed"  # this time

_ORDER = (WOULD_BE_SENT, *AddOutcome, STORED, REFUSED, FAILED)


class Meter:
    """How many images of how many are done, how fast, and how long the rest will take."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.start_s = time.monotonic()
        self._sent = 0
        self._samples = deque([(self.start_s, 0)])

    def advance(self, *, is_sent: bool) -> None:
        """Counts an image; those that were not sent say nothing about the rate."""
        self.done += 1
        self._sent += is_sent
        now_s = time.monotonic()
        if now_s - self._samples[-1][0] >= 1:
            self._samples.append((now_s, self._sent))
            while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_WINDOW_S:
                self._samples.popleft()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start_s

    @property
    def sent_rate(self) -> float:
        """Images sent a second, from the start."""
        return self._sent / self.elapsed_s

    def __str__(self) -> str:
        since_s, sent_then = self._samples[0]
        rate = (self._sent - sent_then) / max(time.monotonic() - since_s, 1e-3)
        of_total = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of_total}"]
        if rate > 0:
            parts.append(f"{rate:.0f}/s")
        if self.total is not None and rate > 0:
            parts.append(f"{_duration(max(self.total - self.done, 0) / rate)} left")
        return "  ".join(parts)


class Report:
    """Tells of each image as JSON if asked to, and of all of them on stderr while they are sent."""

    def __init__(
        self, verb: str, total: int | None, *, as_json: bool, order: Sequence[str] = _ORDER
    ) -> None:
        """``order`` has the outcomes there are, as they are counted for the reader."""
        self._order = order
        self.meter = Meter(total)
        self.counts: Counter[str] = Counter()
        self._verb = verb
        self._as_json = as_json
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._trouble = ""
        self._logged_s = self.meter.start_s
        # A bar between lines of JSON on one terminal would be in the way.
        self._is_hidden = as_json and stdout.is_terminal
        self._shows_bar = stderr.is_terminal and not self._is_hidden

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Shows what there is to tell while the block runs."""
        if not self._shows_bar:
            yield
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            _StatusColumn(self),
            console=stderr,
        )
        self._bar, self._task = bar, bar.add_task(self._verb, total=self.meter.total)
        with bar:
            yield

    def settle(
        self,
        entry: Entry,
        outcome: str = "",
        *,
        failure: Failure | None = None,
        image: Image | None = None,
        is_sent: bool = False,
    ) -> None:
        """Counts what became of an image."""
        details: dict[str, object] = {} if image is None else {"image": image}
        if failure is not None:
            outcome = REFUSED if failure.is_final or failure.code == "CLIENT" else FAILED
            reason = (failure.code, failure.reason)
            self._reasons[reason] += 1
            self._examples.setdefault(reason, f"{entry.key}: {failure.message}")
            details["error"] = {
                "message": failure.message,
                "code": failure.code,
                "reason": failure.reason,
            }
        self.counts[outcome] += 1
        self.meter.advance(is_sent=is_sent)
        if self._as_json:
            show_json({"source": entry.key, "outcome": outcome, **details})
        if self._shows_bar:
            self._bar.update(self._task, completed=self.meter.done)
        elif time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._log(self.status)

    def trouble(self, message: str) -> None:
        """Says what the command waits for; nothing, that it goes on."""
        if not self._shows_bar and bool(message) != bool(self._trouble):
            self._log(message or "the server is back")
        self._trouble = message

    @property
    def status(self) -> str:
        counts = f"{self.meter}  {self.counted()}"
        return f"{self._trouble}  {counts}" if self._trouble else counts

    def counted(self) -> str:
        counts = ((outcome, self.counts[outcome]) for outcome in self._order)
        return ", ".join(f"{count:,} {outcome}" for outcome, count in counts if count)

    @property
    def failures(self) -> int:
        return self.counts[REFUSED] + self.counts[FAILED]

    def show_summary(self, *, skipped: int, notes: list[str]) -> None:
        console = stderr if self._as_json else stdout
        if self._reasons:
            table = new_table("why", "images", "for example")
            for (code, reason), count in self._reasons.most_common(_MAX_REASONS):
                example = _shown(self._examples[code, reason])
                table.add_row(Text(visible(reason or code)), f"{count:,}", Text(example))
            console.print(table)
        meter = self.meter
        passed_over = f"; {skipped:,} other files passed over" if skipped else ""
        rate = f" ({meter.sent_rate:.0f}/s)" if meter.sent_rate else ""
        elapsed = _duration(meter.elapsed_s)
        console.print(f"{self.counted() or 'nothing found'} in {elapsed}{rate}{passed_over}")
        for note in notes:
            console.print(Text(_shown(note)), soft_wrap=True)

    def _log(self, message: str) -> None:
        self._logged_s = time.monotonic()
        if not self._is_hidden:
            typer.echo(f"{self._verb}: {message}", err=True)


class _StatusColumn(ProgressColumn):
    def __init__(self, report: Report) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._report = report

    def render(self, task: Task) -> Text:
        return Text(visible(self._report.status))


def _shown(text: str) -> str:
    """A key may be a file's name, and that need not be text."""
    return visible(text.encode(errors="backslashreplace").decode())


def _duration(seconds: float) -> str:
    """``0.4 s``, ``2:05`` or ``1:02:05``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
