"""Whatever is logged, a record is one line that nothing in it can forge."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch_server.log_lines import JsonFormatter, TextFormatter, request_id

FORGED = (
    "harmless\r\n2026-01-01 00:00:00,000 INFO clipsearch_server call code=OK\x1b[2J\u2028\u202e"
)


def record(
    message: object, *values: object, error: BaseException | None = None
) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("a.logger", logging.INFO, "f.py", 1, message, values, exc_info)


@given(st.text(), st.text(), st.text())
def test_a_record_is_one_line_in_either_format(message: str, named: str, other: str) -> None:
    escaped = message.replace("%", "%%")
    it = record(f"{escaped} text=%s %s", named, other)
    text, line = TextFormatter().format(it), JsonFormatter().format(it)
    for written in (text, line):
        assert written.isprintable()
        assert len(written.splitlines()) == 1
        written.encode()  # no half of a surrogate pair
    assert line.isascii()
    assert json.loads(line)["logger"] == "a.logger"


def test_json_has_the_fields_that_a_message_names() -> None:
    line = json.loads(
        JsonFormatter().format(
            record("call method=%s ms=%.1f done=%s (%s)", "Get", 1.25, True, "x")
        )
    )
    assert line["message"] == "call method=Get ms=1.2 done=True (x)"
    assert line["fields"] == {"method": "Get", "ms": 1.25, "done": True}
    assert line["level"] == "INFO"
    assert line["time"].endswith("+00:00")


def strict(line: str) -> dict[str, object]:
    """Reads JSON as others do, who know no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_text(number: float) -> None:
    line = strict(JsonFormatter().format(record("share=%s of=%d", number, 3)))
    assert line["fields"] == {"share": str(number), "of": 3}


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("%*d|", (4, 2), "   2|"),
        ("count=%ld", (2,), "count=2"),
        ("%(name)s=%(value)d", ({"name": "rows", "value": 2},), "rows=2"),
    ],
)
def test_templates_of_libraries_are_written_as_logging_writes_them(
    template: str, values: tuple[object, ...], expected: str
) -> None:
    assert json.loads(JsonFormatter().format(record(template, *values)))["message"] == expected
    assert TextFormatter().format(record(template, *values)).endswith(f" a.logger {expected}")


def test_a_stack_that_is_asked_for_is_kept_and_forges_nothing() -> None:
    it = record("here")
    it.stack_info = f"Stack (most recent call last):\n{FORGED}"
    first, *others = TextFormatter().format(it).splitlines()
    assert first.endswith("here")
    assert others[0] == "    Stack (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert strict(JsonFormatter().format(it))["stack"] == it.stack_info


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_record_that_cannot_be_written_costs_one_line(log_format: str) -> None:
    script = f"""
import logging
from clipsearch_server import log_lines
log_lines.set_up("INFO", {log_format!r})
logging.getLogger("library").info("of %d", "no number")
logging.getLogger("library").info("next")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    bad, following = done.stderr.splitlines()
    assert "library" in bad
    assert "of %d" in bad
    assert "next" in following
    if log_format == "json":
        assert strict(bad)["level"] == "ERROR"


def test_a_value_is_no_second_field() -> None:
    text = TextFormatter().format(record("call peer=%s code=%s", 'x code=OK "', "CANCELLED"))
    assert text.endswith('call peer="x code=OK \\"" code=CANCELLED')


def test_long_values_are_cut() -> None:
    long = "x" * 1_000_000
    for it in (record("uri=%s", long), record(long), record("%s", long)):
        for formatter in (TextFormatter(), JsonFormatter()):
            line = formatter.format(it)
            assert len(line) < 10_000
            assert "1,000,000 characters" in line


def test_a_traceback_cannot_pass_for_records() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        it = record("internal error_id=%s", "abc", error=error)
    first, *others = TextFormatter().format(it).splitlines()
    assert first.endswith("internal error_id=abc")
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    line = JsonFormatter().format(it)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["exception"].startswith("Traceback")


def test_the_lines_of_a_call_have_its_id() -> None:
    token = request_id.set("abc-1")
    try:
        assert TextFormatter().format(record("hello")).endswith("hello request_id=abc-1")
        assert json.loads(JsonFormatter().format(record("hello")))["request_id"] == "abc-1"
    finally:
        request_id.reset(token)


SCRIPT = """
import logging, threading, warnings
from clipsearch_server import log_lines
log_lines.set_up("INFO", {log_format!r})
logging.getLogger("httpcore").info("a library says %s", "much")
warnings.warn("mind the gap")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError({forged!r})
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_others_say_and_what_nobody_caught_is_logged_too(
    log_format: Literal["text", "json"],
) -> None:
    script = SCRIPT.format(log_format=log_format, forged=FORGED)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.split("\n")[:-1]
    if log_format == "json":
        said = [json.loads(line) for line in lines]
        assert [it["logger"] for it in said] == [
            *("httpcore", "py.warnings", "clipsearch_server", "clipsearch_server")
        ]
        assert "ZeroDivisionError" in said[2]["exception"]
    else:
        assert [line.split(" ")[3] for line in lines if not line.startswith("    ")] == [
            *("httpcore", "py.warnings", "clipsearch_server", "clipsearch_server")
        ]
    assert all(line.isprintable() for line in lines)
