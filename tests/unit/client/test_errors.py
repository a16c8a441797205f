"""google.rpc.Status -> exception, by way of a real call."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

import clipsearch
from clipsearch import SearchError
from unit.client.scripted_service import Driver, ScriptedService, make_status


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", clipsearch.InvalidRequestError),
        (StatusCode.INVALID_ARGUMENT, "SOURCE_NOT_ALLOWED", clipsearch.InvalidRequestError),
        (StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_LARGE", clipsearch.InvalidImageError),
        (StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND", clipsearch.NotFoundError),
        (StatusCode.ALREADY_EXISTS, "COLLECTION_EXISTS", clipsearch.AlreadyExistsError),
        (StatusCode.FAILED_PRECONDITION, "COLLECTION_IN_USE", clipsearch.CollectionInUseError),
        (StatusCode.FAILED_PRECONDITION, "SOURCE_HTTP_STATUS", clipsearch.SourceError),
        (StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH", clipsearch.ModelMismatchError),
        (StatusCode.FAILED_PRECONDITION, "SOMETHING_NEW", SearchError),
        (StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", clipsearch.OverloadedError),
        (StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", clipsearch.OverloadedError),
        (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL", clipsearch.StorageFullError),
        (StatusCode.RESOURCE_EXHAUSTED, "", SearchError),
        (StatusCode.UNAVAILABLE, "MODEL_UNAVAILABLE", clipsearch.UnavailableError),
        (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", clipsearch.DeadlineExceededError),
        (StatusCode.UNAUTHENTICATED, "", clipsearch.UnauthenticatedError),
        (StatusCode.PERMISSION_DENIED, "", clipsearch.PermissionDeniedError),
        (StatusCode.INTERNAL, "INTERNAL", clipsearch.InternalError),
        (StatusCode.DATA_LOSS, "", SearchError),
    ],
)
async def test_each_status_has_its_exception(
    code: StatusCode,
    reason: str,
    expected: type[SearchError],
    service: ScriptedService,
    driver: Driver,
) -> None:
    service.answer("GetImage", make_status(code, "so it went", reason, host="example.com"))
    with pytest.raises(SearchError, match="so it went") as caught:
        await driver.call("get_image", "x")
    error = caught.value
    assert type(error) is expected
    assert (error.code, error.reason, error.message) == (code, reason, "so it went")
    assert error.metadata == {"host": "example.com"}
    assert isinstance(error.__cause__, grpc.RpcError)


async def test_field_violations_are_told(service: ScriptedService, driver: Driver) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="text", description="is empty")
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    service.answer(
        "QueryText",
        make_status(StatusCode.INVALID_ARGUMENT, "bad request", "INVALID_FIELD", bad_request),
    )
    with pytest.raises(clipsearch.InvalidRequestError) as caught:
        await driver.call("query_text", "")
    assert caught.value.field_violations == (clipsearch.FieldViolation("text", "is empty"),)
    assert str(caught.value) == "bad request; text: is empty"


async def test_what_the_message_says_is_not_said_twice(
    service: ScriptedService, driver: Driver
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="text", description="is empty")
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    service.answer(
        "QueryText",
        make_status(StatusCode.INVALID_ARGUMENT, "text: is empty", "INVALID_FIELD", bad_request),
    )
    with pytest.raises(clipsearch.InvalidRequestError) as caught:
        await driver.call("query_text", "")
    assert str(caught.value) == "text: is empty"


async def test_an_internal_error_quotes_its_id(service: ScriptedService, driver: Driver) -> None:
    service.answer(
        "GetImage",
        make_status(StatusCode.INTERNAL, "the server failed", "INTERNAL", error_id="f00"),
    )
    with pytest.raises(clipsearch.InternalError) as caught:
        await driver.call("get_image", "x")
    assert caught.value.error_id == "f00"
    assert str(caught.value) == "the server failed (error id f00)"


@pytest.mark.parametrize("retryable", [True, False])
async def test_a_source_says_whether_it_may_deliver_later(
    retryable: bool, service: ScriptedService, driver: Driver
) -> None:
    status = make_status(
        StatusCode.FAILED_PRECONDITION, "404", "SOURCE_X", retryable=str(retryable).lower()
    )
    service.answer("AddImage", status)
    with pytest.raises(clipsearch.SourceError) as caught:
        await driver.call("add_image", url="http://example.com/x.png")
    assert caught.value.retryable is retryable


async def test_details_that_cannot_be_read_do_not_hide_the_error(
    service: ScriptedService, driver: Driver
) -> None:
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    unknown = AnyMessage(type_url="type.googleapis.com/example.Unknown", value=b"\x01")
    status = make_status(StatusCode.NOT_FOUND, "no such image", "IMAGE_NOT_FOUND")
    status = status_pb2.Status(
        code=status.code, message=status.message, details=[broken, unknown, *status.details]
    )
    service.answer("GetImage", status)
    with pytest.raises(clipsearch.NotFoundError, match="no such image") as caught:
        await driver.call("get_image", "x")
    assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_an_error_without_details_is_an_error(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer(
        "GetImage", lambda _, context: context.abort(StatusCode.NOT_FOUND, "no such image")
    )
    with pytest.raises(clipsearch.NotFoundError, match="no such image"):
        await driver.call("get_image", "x")


def test_an_error_survives_pickling() -> None:
    error = clipsearch.OverloadedError(
        StatusCode.RESOURCE_EXHAUSTED,
        "too much",
        "SERVER_OVERLOADED",
        {"a": "b"},
        [clipsearch.FieldViolation("f", "d")],
        1.5,
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is clipsearch.OverloadedError
    assert vars(copy) == vars(error)
