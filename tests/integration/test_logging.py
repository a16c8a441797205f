"""The log of a real server whose callers put into their calls what is to look like lines of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.testing import ServerProcess

PICTURE = (Path(__file__).parents[2] / "demo" / "pictures" / "anchor.png").read_bytes()
# In whatever a caller writes, and never in the log.
SECRET = "hush"
FORGED = (
    f"{SECRET}\r\n2026-01-01 00:00:00,000 INFO clipsearch_server call code=OK\n"
    '{"level": "INFO", "message": "call"}\x1b[2J\u2028\x00'
)
LONG = SECRET * 50_000
URL = f"http://someone:{SECRET}@192.0.2.1/{SECRET}?token={SECRET}#{SECRET}"

# A method, and what it is called with.
CALLS = [
    (method, request)
    for nasty in (FORGED, LONG)
    for method, request in [
        ("QueryText", pb.QueryTextRequest(text=nasty)),
        ("QueryText", pb.QueryTextRequest(text="wish", collection=nasty, page_token=nasty)),
        ("QueryTexts", pb.QueryTextsRequest(texts=[nasty, SECRET])),
        ("QueryImage", pb.QueryImageRequest(url=nasty)),
        ("EmbedTexts", pb.EmbedTextsRequest(texts=[nasty], collection=nasty)),
        ("AddImage", pb.AddImageRequest(url=f"{URL}{nasty}", request_id=nasty)),
        ("AddImage", pb.AddImageRequest(url=URL, fetch_headers={nasty: nasty})),
        ("AddImage", pb.AddImageRequest(content=PICTURE, uri=nasty, id=nasty)),
        ("AddImage", pb.AddImageRequest(content=nasty.encode(), metadata=Struct())),
        ("GetImage", pb.GetImageRequest(id=nasty, collection=nasty)),
        ("ListImages", pb.ListImagesRequest(page_token=nasty, collection=nasty)),
        ("DeleteImage", pb.DeleteImageRequest(id=nasty)),
        ("CreateCollection", pb.CreateCollectionRequest(name=nasty, model=nasty)),
        ("GetCollection", pb.GetCollectionRequest(name=nasty)),
        ("UpdateCollection", pb.UpdateCollectionRequest(name=nasty)),
        ("DeleteCollection", pb.DeleteCollectionRequest(name=nasty, confirm_name=nasty)),
        ("SetAlias", pb.SetAliasRequest(alias=nasty, collection=nasty)),
        ("DeleteAlias", pb.DeleteAliasRequest(alias=nasty)),
    ]
]
# What may be in metadata at all is printable ASCII.
METADATA = [
    ("x-request-id", f'{SECRET} code=OK "'),
    ("x-request-id-bin", FORGED.encode()),
    ("traceparent", f"00-{SECRET}"),
    ("authorization", f"Bearer {SECRET}"),
    ("user-agent", SECRET),
    (SECRET, SECRET),
]


@pytest.fixture(params=["text", "json"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def metadata_of(picture: Struct) -> Struct:
    picture.update({FORGED: FORGED})
    return picture


def items() -> Iterator[pb.AddImagesRequest]:
    yield pb.AddImagesRequest(item_id=FORGED, request=pb.AddImageRequest(content=b"no image"))
    yield pb.AddImagesRequest(item_id=LONG, request=pb.AddImageRequest(content=PICTURE))
    stored = pb.AddImageRequest(content=PICTURE, uri=SECRET, metadata=metadata_of(Struct()))
    yield pb.AddImagesRequest(item_id=SECRET, request=stored)
    yield pb.AddImagesRequest(item_id="url", request=pb.AddImageRequest(url=URL))


def test_row_48_nothing_of_a_call_forges_a_line_or_tells_a_secret(
    log_format: str, tmp_path: Path
) -> None:
    options = ("--data-dir", str(tmp_path), "--log-format", log_format)
    codes = set()
    with ServerProcess(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = ImageSearchServiceStub(channel)
        for method, request in CALLS:
            try:
                getattr(stub, method)(request, metadata=METADATA)
            except grpc.RpcError as error:
                codes.add(error.code().name)
        answers = list(stub.AddImages(items(), metadata=METADATA))
        assert len(answers) == 4
        server.stop()
    assert codes == {"INVALID_ARGUMENT", "NOT_FOUND"}
    assert SECRET not in server.log
    assert "wish" not in server.log
    lines = server.log.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable(), line
        assert len(line) < 5_000, line
        if log_format == "json":
            json.loads(line)
        else:
            assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ clipsearch_server", line)
    calls = [line for line in lines if "call method=" in line]
    assert len(calls) == len(CALLS) + 1
    ids = {re.search(r'request_id(?:=|": ")([0-9a-f]{16})\b', line) for line in calls}
    assert None not in ids
    assert len(ids) == len(calls)


def test_a_call_is_found_in_the_log_by_the_id_that_its_caller_gave_it(tmp_path: Path) -> None:
    options = ("--data-dir", str(tmp_path), "--log-format", "json")
    with ServerProcess(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = ImageSearchServiceStub(channel)
        given = (("x-request-id", "order-4711:3"),)
        _, call = stub.QueryText.with_call(pb.QueryTextRequest(text="a cat"), metadata=given)
        told = dict(call.trailing_metadata())
        assert told["x-request-id"] == "order-4711:3"
        assert "total;dur=" in told["server-timing"]
        with pytest.raises(grpc.RpcError) as caught:
            stub.QueryText(pb.QueryTextRequest(text=""), metadata=given)
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "order-4711:3"
        (answer,) = stub.AddImages(
            iter([pb.AddImagesRequest(item_id="a", request=pb.AddImageRequest(content=b""))])
        )
        assert answer.HasField("error")
        server.stop()
    said = [json.loads(line) for line in server.log.splitlines()]
    (good, bad), (stream,) = (
        [it for it in said if it["message"].startswith(f"call method={method} ")]
        for method in ("QueryText", "AddImages")
    )
    assert good["request_id"] == bad["request_id"] == "order-4711:3"
    assert good["fields"].keys() == {"method", "code", "ms", "peer"}
    assert (bad["fields"]["code"], bad["fields"]["reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    # What else is logged while a call is served has its id too.
    (added,) = (it for it in said if it["message"].startswith("added items=1"))
    assert added["request_id"] == stream["request_id"]
