"""How log records become lines: text for people, or a JSON object each for machines.

Whatever a record holds, a line stays one line: a value from outside can neither begin a line nor
move a terminal's cursor, and none is long. A message names its fields: of ``"call method=%s"``,
the JSON has ``{"fields": {"method": ...}}``, and in text a value with spaces is quoted.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Literal, TypeAlias

from clipsearch_server import tracing

LogFormat: TypeAlias = Literal["text", "json"]

# The id of the call being served, "" outside of calls.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_MAX_VALUE_CHARS = 1024
_MAX_MESSAGE_CHARS = 4096
_MAX_TRACEBACK_CHARS = 16_384

# A %-directive, with the name of the field that it is the value of, if it has one.
_DIRECTIVE = re.compile(r"(?:(\w+)=)?(%[-#0 +\d.]*([a-zA-Z%]))")
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')


def set_up(level: str, log_format: LogFormat, *, worker: int | None = None) -> None:
    """Sends what every logger says to standard error, and uncaught exceptions and warnings too.

    ``worker`` is the number of this process, if it is one of several, and stands in each line.
    What gRPC's core writes there by itself is out of reach.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if log_format == "json" else TextFormatter)(worker))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _Formatter(logging.Formatter):
    """Knows which process it is that logs, and what for."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def _ids(self) -> Iterator[tuple[str, str | int]]:
        if self._worker is not None:
            yield "worker", self._worker
        if call := request_id.get():
            yield "request_id", call
        if trace := tracing.trace_id():
            yield "trace_id", trace


class TextFormatter(_Formatter):
    """``time LEVEL logger message request_id=...``, and a traceback in indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        message, _ = _read(record)
        parts = [self.formatTime(record), record.levelname, record.name, message]
        parts += (f"{name}={value}" for name, value in self._ids())
        lines = [" ".join(parts)]
        if record.exc_info:
            lines += (
                f"    {_escaped(line, _MAX_VALUE_CHARS)}"
                for line in _traceback(self, record).splitlines()
            )
        return "\n".join(lines)


class JsonFormatter(_Formatter):
    """An object a line, in ASCII: ``time``, ``level``, ``logger``, ``message``; and, where there is
    any, ``fields``, ``worker``, ``request_id``, ``trace_id`` and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = _read(record)
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if fields:
            line["fields"] = fields
        line |= self._ids()
        if record.exc_info:
            line["exception"] = _traceback(self, record)
        return json.dumps(line)


def _read(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Returns a record's message, safe to write, and the values in it that have names."""
    if not isinstance(record.args, tuple) or not record.args:
        return _escaped(record.getMessage(), _MAX_MESSAGE_CHARS), {}
    template, names = _parse(str(record.msg))
    fields: dict[str, object] = {}
    written: list[str] = []
    for (name, form), value in zip(names, record.args, strict=True):
        text = _escaped(form % (value,), _MAX_VALUE_CHARS)
        if name:
            fields[name] = value if isinstance(value, bool | int | float) else text
            text = json.dumps(text) if _NEEDS_QUOTES.search(text) else text
        written.append(text)
    return _escaped(template % tuple(written), _MAX_MESSAGE_CHARS), fields


@lru_cache(1024)  # a message is a constant of the code
def _parse(message: str) -> tuple[str, list[tuple[str, str]]]:
    """Returns a message with %s for each value, and of each value its name, "" if it has none, and
    how it is written."""
    values: list[tuple[str, str]] = []

    def note(directive: re.Match[str]) -> str:
        name, form, conversion = directive.groups()
        if conversion == "%":
            return directive[0]
        values.append((name or "", form))
        return f"{name}=%s" if name else "%s"

    return _DIRECTIVE.sub(note, message), values


def _escaped(text: str, max_chars: int) -> str:
    r"""Writes what is no visible character as \x0a or \u2028: control characters, line ends, what
    changes the direction of writing, halves of surrogate pairs. Cuts what is too long."""
    if len(text) > max_chars:
        text = f"{text[:max_chars]}... ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else _escape(ord(it)) for it in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The end of a traceback, which says what happened, if all is too long."""
    assert isinstance(record.exc_info, tuple)
    return formatter.formatException(record.exc_info)[-_MAX_TRACEBACK_CHARS:]


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("clipsearch_server").critical("uncaught", exc_info=error)


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is not None:
        logging.getLogger("clipsearch_server").critical("uncaught in a thread", exc_info=error)
