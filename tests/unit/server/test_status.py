"""Domain error -> gRPC status: total, detailed, and silent about our insides."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import TypeVar
from uuid import UUID

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from clipsearch_server import errors
from clipsearch_server.rpc.status import CODES, to_status

Detail = TypeVar("Detail", bound=Message)


def detail(status: status_pb2.Status, kind: type[Detail]) -> Detail:
    for packed in status.details:
        unpacked = kind()
        if packed.Unpack(unpacked):
            return unpacked
    raise AssertionError(f"no {kind.__name__} in {status}")


def subclasses(base: type[errors.ClipsearchError]) -> Iterator[type[errors.ClipsearchError]]:
    for child in base.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_has_a_code() -> None:
    never_reach_a_client = {errors.StartupError}
    for error in subclasses(errors.ClipsearchError):
        mapped = any(ancestor in CODES for ancestor in error.__mro__)
        assert mapped or error in never_reach_a_client, error


def test_every_error_is_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    for error in subclasses(errors.ClipsearchError):
        assert error.__name__ in errors.__doc__


def test_every_reason_is_what_aip_193_asks_for() -> None:
    for error in subclasses(errors.ClipsearchError):
        assert error.reason == error.reason.upper()
        assert len(error.reason) <= 63


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("text", "is empty"), code_pb2.INVALID_ARGUMENT),
        (errors.InvalidImage("no image", reason="IMAGE_UNDECODABLE"), code_pb2.INVALID_ARGUMENT),
        (errors.SourceNotAllowed(), code_pb2.INVALID_ARGUMENT),
        (errors.FilterRefused("costs too much"), code_pb2.INVALID_ARGUMENT),
        (
            errors.SourceFailed("404", reason="SOURCE_HTTP_STATUS", retryable=False),
            code_pb2.FAILED_PRECONDITION,
        ),
        (errors.ImageNotFound(UUID(int=1)), code_pb2.NOT_FOUND),
        (errors.CollectionNotFound("cats"), code_pb2.NOT_FOUND),
        (errors.ModelMismatch("other"), code_pb2.FAILED_PRECONDITION),
        (errors.Overloaded("busy"), code_pb2.RESOURCE_EXHAUSTED),
        (errors.StorageFull("full"), code_pb2.RESOURCE_EXHAUSTED),
        (errors.EncoderUnavailable("gone"), code_pb2.UNAVAILABLE),
        (errors.IndexUnavailable("gone"), code_pb2.UNAVAILABLE),
        (errors.DeadlineExceeded("late"), code_pb2.DEADLINE_EXCEEDED),
        (errors.OutcomeUnknown("who knows"), code_pb2.DEADLINE_EXCEEDED),
        (TimeoutError(), code_pb2.DEADLINE_EXCEEDED),
    ],
)
def test_the_code_and_the_reason_are_told(error: Exception, code: int) -> None:
    status = to_status(error)
    assert status.code == code
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == "clipsearch"
    expected = error.reason if isinstance(error, errors.ClipsearchError) else "DEADLINE_EXCEEDED"
    assert info.reason == expected


def test_an_invalid_field_is_named() -> None:
    status = to_status(errors.InvalidRequest("limit", "must not be negative"))
    assert status.message == "limit: must not be negative"
    bad = detail(status, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad.field_violations] == ["limit"]


def test_a_missing_resource_is_named() -> None:
    resource = detail(to_status(errors.CollectionNotFound("cats")), error_details_pb2.ResourceInfo)
    assert resource.resource_type == "clipsearch.v1.Collection"
    assert resource.resource_name == "cats"


def test_an_overloaded_server_says_when_to_come_back() -> None:
    retry = detail(
        to_status(errors.Overloaded("busy", retry_after_s=1.5)), error_details_pb2.RetryInfo
    )
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_a_quota_is_told_with_whose_it_is_and_when_there_is_more() -> None:
    error = errors.QuotaExceeded(
        "at most 3", quota="max_in_flight", caller="loader", retry_after_s=2.5
    )
    status = to_status(error)
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("QUOTA_EXCEEDED", {"quota": "max_in_flight"})
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500
    (violation,) = detail(status, error_details_pb2.QuotaFailure).violations
    assert (violation.subject, violation.description) == ("caller:loader", "at most 3")


@pytest.mark.parametrize(
    "kind",
    [
        errors.EncoderUnavailable,
        errors.DecoderUnavailable,
        errors.IndexUnavailable,
        errors.DependencyFailed,
    ],
)
def test_what_is_wrong_with_a_neighbour_is_for_the_log(
    kind: type[errors.DependencyFailed],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipsearch_server.rpc.status._told_at", {})
    for _ in range(100):
        status = to_status(kind("secret at 10.0.0.1:6334"))
    assert b"secret" not in status.SerializeToString()
    assert "at the moment" in status.message
    assert caplog.text.count("secret at 10.0.0.1:6334") == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "many", "/secret"), OSError(errno.ENOMEM, "secret"), MemoryError()],
)
def test_row_45_what_a_process_has_run_out_of_is_an_overload(error: Exception) -> None:
    status = to_status(error)
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert detail(status, error_details_pb2.ErrorInfo).reason == "SERVER_OVERLOADED"
    assert detail(status, error_details_pb2.RetryInfo).HasField("retry_delay")
    assert b"secret" not in status.SerializeToString()


@pytest.mark.parametrize(
    "error",
    [ValueError("secret /etc/passwd"), errors.ModelOutputInvalid("secret /etc/passwd")],
)
def test_row_33_our_own_failure_tells_an_id_and_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status = to_status(error)
    assert status.code == code_pb2.INTERNAL
    assert b"secret" not in status.SerializeToString()
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info.metadata["error_id"] in caplog.text
    assert "secret /etc/passwd" in caplog.text
