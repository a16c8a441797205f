"""The headers of a caller: well-formed, few, his to set, and never shown."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.fetch_headers import MAX_HEADERS, MAX_HEADERS_BYTES, fetch_headers

URL = "https://images.example/cat.jpg"


def refusal(headers: dict[str, str]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        fetch_headers(headers)
    assert caught.value.field == "fetch_headers"
    return caught.value.message


def test_they_reach_the_engine_and_no_representation() -> None:
    headers = {"Authorization": "Bearer hush", "Accept": "image/webp", "X-Empty": ""}
    new = convert.new_image(pb.AddImageRequest(url=URL, fetch_headers=headers))
    assert new.fetch_headers == headers
    assert "hush" not in repr(new)
    assert convert.new_image(pb.AddImageRequest(url=URL)).fetch_headers == {}


def test_content_has_no_host_to_send_them_to() -> None:
    request = pb.AddImageRequest(content=b"image", fetch_headers={"Authorization": "Bearer hush"})
    with pytest.raises(InvalidRequest) as caught:
        convert.new_image(request)
    assert caught.value.field == "fetch_headers"


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a:", "a\n", "caf\u00e9", ":authority", "a\0", "(a)", "a,b", "Authorization: hush"],
)
def test_a_name_is_a_token(name: str) -> None:
    assert "hush" not in refusal({name: "hush"})


@pytest.mark.parametrize(
    "value",
    [
        "hush\r\nHost: b",
        "hush\n",
        "hush\r",
        "hush\0",
        "hush\x7f",
        " hush",
        "hush ",
        "h\u00fcsh",
        "\t",
    ],
)
def test_a_value_is_visible_ascii(value: str) -> None:
    assert "sh" not in refusal({"Authorization": value})


@pytest.mark.parametrize(
    "name",
    ["Host", "HOST", "Content-Length", "content-type", "Transfer-Encoding", "Connection", "TE",
     "Trailer", "Upgrade", "Expect", "Proxy-Authorization", "Proxy-Connection", "Accept-Encoding",
     "Range", "If-Range", "If-None-Match", "Keep-Alive", "User-Agent", "HTTP2-Settings"],
)  # fmt: skip
def test_what_the_server_sets_is_not_for_callers(name: str) -> None:
    message = refusal({name: "hush"})
    assert name.lower() in message
    assert "hush" not in message


def test_one_header_has_one_value() -> None:
    refusal({"X-Key": "a", "x-key": "b"})


def test_their_number_and_size_are_bounded() -> None:
    assert len(fetch_headers({f"x-{i}": "v" for i in range(MAX_HEADERS)})) == MAX_HEADERS
    refusal({f"x-{i}": "v" for i in range(MAX_HEADERS + 1)})
    assert fetch_headers({"x": "v" * (MAX_HEADERS_BYTES - 1)})
    refusal({"x": "v" * MAX_HEADERS_BYTES})


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=3))
def test_whatever_passes_is_one_line_a_header(headers: dict[str, str]) -> None:
    try:
        passed = fetch_headers(headers)
    except InvalidRequest:
        return
    for name, value in passed.items():
        assert name
        assert not set(name) - set(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")
        assert value.isascii()
        assert value.replace("\t", " ").isprintable()
        assert value == value.strip()
