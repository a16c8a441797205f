"""A Triton that answers with what is no embedding: nobody is served it, and nothing keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.rpc import code_pb2

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub as Stub
from clipsearch_server.encoders.triton import TritonEncoder
from fakes import FakeIndex
from samples import png
from scripted_triton import CARD, ScriptedTriton, answer, serving
from unit.server.test_service import bulk, item, reason_of, status_of


@pytest.fixture
def triton() -> ScriptedTriton:
    return ScriptedTriton()


@pytest_asyncio.fixture
async def encoder(triton: ScriptedTriton) -> AsyncIterator[TritonEncoder]:
    async with (
        serving(triton) as address,
        TritonEncoder(CARD, address=address, timeout_s=10) as encoder,
    ):
        yield encoder


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex(CARD.embedding_dim)


@pytest.mark.parametrize(
    ("rows", "datatype"),
    [
        (np.full((1, 4), np.nan, np.float32), "FP32"),
        (np.full((1, 4), -np.inf, np.float32), "FP32"),
        (np.array([[1, 0, 0, np.nan]], np.float32), "FP32"),
        (np.zeros((1, 4), np.float32), "FP32"),
        (np.full((1, 4), 3, np.float32), "FP32"),
        (np.eye(3, dtype=np.float32)[:1], "FP32"),
        (np.eye(4, dtype=np.float32)[:2], "FP32"),
        (np.eye(4, dtype=np.float64)[:1], "FP64"),
        (np.eye(4, dtype=np.int64)[:1], "INT64"),
    ],
    ids=["nan", "inf", "one-nan", "zero", "norm", "dimension", "rows", "fp64", "int64"],
)
async def test_row_37_what_is_no_embedding_is_neither_stored_nor_searched_with(
    service: Stub, triton: ScriptedTriton, rows: Any, datatype: str
) -> None:
    async def wrong(request: Any, context: Any) -> Any:
        return answer(request, rows, datatype)

    triton.infer = wrong
    add, query = pb.AddImageRequest(content=png("red")), pb.QueryTextRequest(text="red")
    for status in (
        await status_of(service.AddImage(add)),
        (await bulk(service, item("a", png("red"))))["a"].error,
        await status_of(service.QueryText(query)),
    ):
        assert (status.code, reason_of(status)) == (code_pb2.INTERNAL, "MODEL_OUTPUT_INVALID")
        assert "encoder" not in status.message  # what it was is in the log alone
    assert (await service.ListImages(pb.ListImagesRequest())).total_size == 0
    triton.infer = triton.first_axis
    assert (await service.AddImage(add)).outcome == pb.ADD_OUTCOME_ADDED
    assert (await service.QueryText(query)).hits[0].score == pytest.approx(1)
