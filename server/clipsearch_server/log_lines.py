"""How log records become lines: text for people, or a JSON object each for machines.

Whatever a record holds, a line stays one line: a value from outside can neither begin a line nor
move a terminal's cursor, and none is long. A message names its fields: of ``"call method=%s"``,
the JSON has ``{"fields": {"method": ...}}``, and in text a value with spaces is quoted.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Literal, TextIO, TypeAlias

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
    # No line says where in the code it was logged, or by which thread; looking costs half as much
    # as the line itself (the "Optimization" section of Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Handler(sys.stderr)
    handler.setFormatter((JsonFormatter if log_format == "json" else TextFormatter)(worker))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_says_no_metadata)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _says_no_metadata(record: logging.LogRecord) -> bool:
    """Drops what gRPC logs, in full and with a stack trace, of metadata that are no UTF-8: whoever
    connects may send some, and a key may be among them."""
    return not str(record.msg).startswith("Invalid encoding on")


class _Handler(logging.StreamHandler[TextIO]):
    """Says in one line that a record cannot be written, where logging prints a stack trace."""

    def handleError(self, record: logging.LogRecord) -> None:
        values = (record.name, record.msg, repr(sys.exception()))
        line = "a record cannot be written logger=%s template=%s error=%s"
        told = logging.LogRecord(__name__, logging.ERROR, __file__, 0, line, values, None)
        # The stream itself may be what fails: closed, or at the end of a broken pipe.
        with suppress(OSError, ValueError):
            self.stream.write(self.format(told) + self.terminator)
            self.flush()


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
    """``time LEVEL logger message request_id=...``, and tracebacks in indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        message, _ = _read(record)
        created = f"{_second(int(record.created))},{int(record.msecs):03d}"
        parts = [created, record.levelname, record.name, message]
        parts += (f"{name}={value}" for name, value in self._ids())
        lines = [" ".join(parts)]
        details = [_traceback(self, record)] if record.exc_info else []
        details += [_cut(record.stack_info)] if record.stack_info else []
        for detail in details:
            lines += (f"    {_escaped(line, _MAX_VALUE_CHARS)}" for line in detail.splitlines())
        return "\n".join(lines)


class JsonFormatter(_Formatter):
    """An object a line, in ASCII: ``time``, ``level``, ``logger``, ``message``; and, where there is
    any, ``fields``, ``worker``, ``request_id``, ``trace_id``, ``exception`` and ``stack``."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = _read(record)
        created = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": created.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if fields:
            line["fields"] = fields
        line |= self._ids()
        if record.exc_info:
            line["exception"] = _traceback(self, record)
        if record.stack_info:
            line["stack"] = _cut(record.stack_info)
        return json.dumps(line)


@lru_cache(2)  # there are many lines a second, and strftime takes longer than the rest of one
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _read(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Returns a record's message, safe to write, and the values in it that have names."""
    if isinstance(record.args, tuple) and record.args:
        # What libraries write may be a directive that we do not know, such as "%*d".
        with suppress(TypeError, ValueError):
            return _filled_in(record, record.args)
    return _escaped(record.getMessage(), _MAX_MESSAGE_CHARS), {}


def _filled_in(
    record: logging.LogRecord, values: tuple[object, ...]
) -> tuple[str, dict[str, object]]:
    template, names = _parse(str(record.msg))
    fields: dict[str, object] = {}
    written: list[str] = []
    for (name, form), value in zip(names, values, strict=True):
        text = value if form == "%s" and isinstance(value, str) else form % (value,)
        text = _escaped(text, _MAX_VALUE_CHARS)
        if name:
            fields[name] = value if _is_number(value) else text
            text = json.dumps(text) if _NEEDS_QUOTES.search(text) else text
        written.append(text)
    return _escaped(template % tuple(written), _MAX_MESSAGE_CHARS), fields


def _is_number(value: object) -> bool:
    """Whether JSON has it as it is: no NaN, and nothing infinite."""
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


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
    assert isinstance(record.exc_info, tuple)
    return _cut(formatter.formatException(record.exc_info))


def _cut(traceback: str) -> str:
    """The end of a traceback, which says what happened, if all is too long."""
    return traceback[-_MAX_TRACEBACK_CHARS:]


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
