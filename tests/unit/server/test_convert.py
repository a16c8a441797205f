"""Requests in, responses out: what is checked, and what page tokens are bound to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.ports import ImagePage, StoredImage
from clipsearch_server.rpc import convert

IMAGE = StoredImage(
    id=UUID(int=7),
    url="https://example.com/cat.jpg",
    uri="cat",
    metadata={"n": 1, "x": 1.5, "tags": ["a", None, True], "nested": {"k": "v"}},
    sha256="0" * 64,
    media_type="image/jpeg",
    width_px=640,
    height_px=480,
    size_bytes=12_345,
    create_time=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
    update_time=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
)


def struct(**values: object) -> Struct:
    message = Struct()
    message.update(values)
    return message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.AddImageRequest(), "source"),
        (pb.AddImageRequest(url=""), "url"),
        (pb.AddImageRequest(content=b""), "content"),
        (pb.AddImageRequest(url="https://a/b", id="seven"), "id"),
        (pb.AddImageRequest(url="https://a/b", uri="é" * 1025), "uri"),
        (pb.AddImageRequest(url="https://a/b", metadata=struct(x="y" * 20_000)), "metadata"),
        (pb.AddImageRequest(url="https://a/b", metadata=struct(x=float("nan"))), "metadata"),
    ],
)
def test_a_bad_add_names_its_field(request_: pb.AddImageRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.new_image(request_)
    assert caught.value.field == field


@given(st.text())
def test_any_text_as_a_page_token_is_read_or_refused(token: str) -> None:
    with suppress(InvalidRequest):
        convert.list_start(token)


@given(st.uuids())
def test_a_list_goes_on_at_the_next_id(next_id: UUID) -> None:
    page = convert.list_response(ImagePage([IMAGE], next_id), total=9)
    assert convert.list_start(page.next_page_token) == next_id
    assert page.total_size == 9


def test_an_image_is_written_as_it_is_stored() -> None:
    message = convert.image(IMAGE)
    assert message.id == "00000000-0000-0000-0000-000000000007"
    assert message.create_time.ToDatetime(UTC) == IMAGE.create_time
    assert (message.width_px, message.height_px, message.size_bytes) == (640, 480, 12_345)
    read = convert.new_image(pb.AddImageRequest(url="https://a/b", metadata=message.metadata))
    assert read.metadata == IMAGE.metadata


def test_an_image_without_metadata_has_none() -> None:
    assert not convert.image(
        StoredImage(**{name: getattr(IMAGE, name) for name in IMAGE.__slots__} | {"metadata": {}})
    ).HasField("metadata")


@pytest.mark.parametrize(
    "bad",
    ["0_0_0000000-0000-0000-0000-000000000001", "\u0661" * 32, "+" + "0" * 31, "{" + "0" * 32],
)
def test_what_python_takes_for_a_uuid_is_not_always_one(bad: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.image_id(bad)
    assert caught.value.field == "id"


def test_metadata_is_no_deeper_than_every_answer_can_hold() -> None:
    def nested(levels: int) -> Struct:
        value: object = 1.0
        for _ in range(levels - 1):
            value = [value]
        return struct(a=value)

    deepest = pb.AddImageRequest(content=b"x", metadata=nested(16))
    stored = replace(IMAGE, metadata=convert.new_image(deepest).metadata)
    response = pb.QueryTextsResponse(
        results=[
            pb.QueryTextsResult(
                response=pb.QueryTextResponse(hits=[pb.Hit(image=convert.image(stored))])
            )
        ]
    )
    assert pb.QueryTextsResponse.FromString(response.SerializeToString()) == response
    with pytest.raises(InvalidRequest) as caught:
        convert.new_image(pb.AddImageRequest(content=b"x", metadata=nested(17)))
    assert caught.value.field == "metadata"
