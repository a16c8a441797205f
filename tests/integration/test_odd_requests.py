"""What no well-behaved client sends, on the wire, to a real server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.model import open_model_folder
from clipsearch_server.settings import DEMO_MODEL_DIR
from clipsearch_server.testing import ServerProcess
from clipsearch_server.text import Tokenizer
from samples import png
from tiny_model import write_tiny_model

SERVICE = "/clipsearch.v1.ImageSearchService"
MAX_TEXT_BYTES = 65_536
MAX_MESSAGE_BYTES = 17 * 2**20
MAX_METADATA_BYTES = 16 * 2**10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    model = write_tiny_model(folder / "model")
    with ServerProcess("--data-dir", str(folder / "data"), "--model-dir", str(model)) as server:
        yield server
        assert server.process.poll() is None
        assert "Traceback" not in server.log
        assert "code=INTERNAL" not in server.log
        assert "code=UNKNOWN" not in server.log


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def neighbour(server: ServerProcess) -> Iterator[ImageSearchServiceStub]:
    """Another client, on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options) as channel:
        stub = ImageSearchServiceStub(channel)
        stub.AddImage(pb.AddImageRequest(content=png("red")))
        yield stub


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The tiny model's, which is the demo model's."""
    model = open_model_folder(DEMO_MODEL_DIR)
    return Tokenizer(
        model.tokenizer_path,
        max_tokens=model.card.max_tokens,
        start_token_id=model.card.start_token_id,
        end_token_id=model.card.end_token_id,
    )


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and field; the last two are empty if they are the library's own."""
    status = rpc_status.from_call(error)
    if status is None:
        return error.code(), "", ""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(info)
    field = bad.field_violations[0].field if status.details[1].Unpack(bad) else ""
    return error.code(), info.reason, field


# Texts --------------------------------------------------------------------------------------------


def on_the_wire(text: bytes) -> bytes:
    """A QueryTextRequest as a client in C, which checks nothing, could send it."""
    length, size = bytearray(), len(text)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return b"\x0a" + bytes(length) + bytes([size]) + text


PIECES = st.sampled_from(
    [
        "cat",
        " ",
        "\0",
        "שחור",
        "\u202e",
        "🐈\u200d⬛",
        "e\u0301",
        "<|endoftext|>",
        "x" * 80,
        "a!" * 40,
    ]
)
TEXTS = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.lists(PIECES, max_size=8).map(lambda pieces: "".join(pieces).encode()),
    st.binary(max_size=20),
)


@given(TEXTS)
@example(b"")
@example(b"a" * MAX_TEXT_BYTES)
@example(b"a" * (MAX_TEXT_BYTES + 1))
@example(b"a b " * 2**18)  # 1 MB
@example(b"\0")
@example(b"cat \xed\xa0\x80")  # a lone surrogate
@example(b"\xff\xfe")
@example("חתול שחור".encode())
@example("🐈\u200d⬛".encode())
@example(b"cat " * 100)
@settings(max_examples=60, deadline=None)
def test_row_25_any_text_is_answered_or_refused_by_name(
    channel: grpc.Channel, tokenizer: Tokenizer, text: bytes
) -> None:
    query = channel.unary_unary(
        f"{SERVICE}/QueryText", response_deserializer=pb.QueryTextResponse.FromString
    )
    try:
        answer = query(on_the_wire(text), timeout=30)
    except grpc.RpcError as error:
        code, reason, field = refusal(error)
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            assert field == "request"
        else:
            assert field == "text"
            assert not decoded.strip() or len(text) > MAX_TEXT_BYTES
    else:
        assert 0 < len(text) <= MAX_TEXT_BYTES
        assert answer.text_truncated == tokenizer.tokenize(text.decode()).truncated


# Messages -----------------------------------------------------------------------------------------


def test_row_28_a_message_too_large_is_refused_and_disturbs_nobody_else(
    channel: grpc.Channel, neighbour: ImageSearchServiceStub
) -> None:
    stub = ImageSearchServiceStub(channel)
    large = bytes(MAX_MESSAGE_BYTES)
    item = pb.AddImagesRequest(item_id="large", request=pb.AddImageRequest(content=large))
    calls = (
        lambda: stub.AddImage(pb.AddImageRequest(content=large)),
        lambda: list(stub.AddImages(iter([item]))),
        lambda: list(stub.ExportImages(pb.ExportImagesRequest(collection=large.decode()))),
    )
    for call in calls:
        beside = [neighbour.QueryText.future(pb.QueryTextRequest(text="red")) for _ in range(10)]
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "", "")
        assert "larger than max" in str(caught.value.details())
        assert all(query.result().hits for query in beside)
    assert stub.QueryText(pb.QueryTextRequest(text="red")).hits  # on the same connection


def test_row_28_an_image_of_the_largest_size_still_fits(channel: grpc.Channel) -> None:
    content = bytes(16 * 2**20)
    with pytest.raises(grpc.RpcError) as caught:
        ImageSearchServiceStub(channel).AddImage(pb.AddImageRequest(content=content))
    assert refusal(caught.value)[1] == "IMAGE_FORMAT_UNSUPPORTED"


def test_row_28_metadata_too_large_is_refused_and_disturbs_nobody_else(
    channel: grpc.Channel, neighbour: ImageSearchServiceStub
) -> None:
    stub = ImageSearchServiceStub(channel)
    for size in (MAX_METADATA_BYTES + 1, 2**20):
        beside = [neighbour.QueryText.future(pb.QueryTextRequest(text="red")) for _ in range(10)]
        with pytest.raises(grpc.RpcError) as caught:
            stub.QueryText(pb.QueryTextRequest(text="red"), metadata=(("x-filler", "x" * size),))
        assert refusal(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "", "")
        assert all(query.result().hits for query in beside)
    assert stub.QueryText(pb.QueryTextRequest(text="red")).hits


@pytest.mark.parametrize("method", ["QueryText", "ExportImages"])
def test_row_28_a_call_without_a_message_is_refused_by_name(
    channel: grpc.Channel, method: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"{SERVICE}/{method}")(iter(())))
    code, reason, field = refusal(caught.value)
    assert (code, reason, field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MISSING",
        "request",
    )


@pytest.mark.parametrize("method", ["QueryText", "ExportImages", "ImportImages"])
def test_row_28_a_message_that_cannot_be_parsed_is_refused_by_name(
    channel: grpc.Channel, method: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"{SERVICE}/{method}")(iter([b"\x0a\x02\xff\xfe"])))
    assert refusal(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_row_32_messages_of_callers_who_go_are_freed(tmp_path: Path) -> None:
    """Some go before their message is read, some while it is worked on."""
    chance = random.Random(32)
    request = pb.QueryImageRequest(content=bytes(500_000))
    with (
        ServerProcess("--data-dir", str(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub, process = ImageSearchServiceStub(channel), psutil.Process(server.process.pid)

        def give_up(times: int) -> int:
            for _ in range(times):
                with pytest.raises(grpc.RpcError):
                    stub.QueryImage(request, timeout=chance.uniform(0.0005, 0.01))
            return int(process.memory_info().rss)

        before = give_up(300)
        assert give_up(900) - before < 30 * 2**20
