"""The encoder on Triton: what it sends, and what each of Triton's answers becomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from clipsearch_server.deadline import call_ends_in
from clipsearch_server.encoders.triton import TritonEncoder
from clipsearch_server.errors import (
    ClipsearchError,
    DeadlineExceeded,
    EncoderUnavailable,
    ModelOutputInvalid,
    Overloaded,
    StartupError,
)
from scripted_triton import CARD, ScriptedTriton, answer, serving, tensor_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def connected(
    triton: ScriptedTriton, *, timeout_s: float = 30
) -> AsyncIterator[TritonEncoder]:
    async with (
        serving(triton) as address,
        TritonEncoder(CARD, address=address, timeout_s=timeout_s) as encoder,
    ):
        yield encoder


def texts(n: int, length: int) -> Any:
    return np.full((n, length), 5, np.int64)


def images(n: int) -> Any:
    return np.zeros((n, 3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("length", "sent"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (33, 77), (77, 77)]
)
async def test_a_text_is_padded_with_the_end_token_to_a_length_that_triton_batches(
    length: int, sent: int
) -> None:
    triton = ScriptedTriton()
    async with connected(triton) as encoder:
        await encoder.encode_text(texts(1, length))
    (request,) = triton.requests
    ids = tensor_of(request)
    assert ids.shape == (1, sent)
    assert (ids[:, :length] == 5).all()
    assert (ids[:, length:] == CARD.end_token_id).all()


async def test_many_rows_are_cut_to_what_triton_takes_and_come_back_in_order() -> None:
    triton = ScriptedTriton()
    triton.max_batch_size = 4

    async def number(request: Any, context: Any) -> Any:
        values = tensor_of(request)[:, 0, 0, 0]
        rows = np.zeros((len(values), 4), np.float32)
        rows[np.arange(len(values)), values] = 1
        return answer(request, rows)

    triton.infer = number
    pixels = images(10)
    pixels[:, 0, 0, 0] = np.arange(10) % 4
    async with connected(triton) as encoder:
        embeddings = await encoder.encode_image(pixels)
    assert [len(tensor_of(request)) for request in triton.requests] == [4, 4, 2]
    assert embeddings.argmax(axis=1).tolist() == (np.arange(10) % 4).tolist()
    assert embeddings.dtype == np.float32


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (UNAVAILABLE, "[request id: 1] Exceeds maximum queue size", Overloaded),
        (UNAVAILABLE, "Request timeout expired", DeadlineExceeded),
        (UNAVAILABLE, "Socket closed", EncoderUnavailable),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model", EncoderUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests", Overloaded),
        (grpc.StatusCode.UNAUTHENTICATED, "no token", EncoderUnavailable),
        (UNAVAILABLE, "", EncoderUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input", ModelOutputInvalid),
        (grpc.StatusCode.INTERNAL, "onnx runtime error 6: out of memory", ModelOutputInvalid),
    ],
)
async def test_each_failure_becomes_what_it_means(
    code: grpc.StatusCode, message: str, expected: type[ClipsearchError]
) -> None:
    triton = ScriptedTriton()
    triton.infer = triton.failing(code, message)
    async with connected(triton) as encoder:
        with pytest.raises(expected) as caught:
            await encoder.encode_image(images(1))
        assert type(caught.value) is expected
        await encoder.health()  # a request failed, and nothing more


@pytest.mark.parametrize(
    "rows",
    [
        np.full((1, 4), np.nan, np.float32),
        np.full((1, 4), np.inf, np.float32),
        np.zeros((1, 4), np.float32),
        np.ones((1, 4), np.float32),
        np.eye(4, dtype=np.float32)[:2],
        np.eye(3, dtype=np.float32)[:1],
        np.eye(4, dtype=np.float32)[0],
    ],
    ids=["nan", "infinite", "zero", "not normalised", "rows", "dimension", "axes"],
)
async def test_row_37_what_is_no_embedding_is_refused(rows: Any) -> None:
    triton = ScriptedTriton()

    async def give(request: Any, context: Any) -> Any:
        return answer(request, rows)

    triton.infer = give
    async with connected(triton) as encoder:
        with pytest.raises(ModelOutputInvalid):
            await encoder.encode_image(images(1))


async def test_row_37_broken_tensors_are_refused() -> None:
    triton = ScriptedTriton()

    async def other_type(request: Any, context: Any) -> Any:
        return answer(request, np.eye(4, dtype=np.float16)[:1], "FP16")

    async def too_short(request: Any, context: Any) -> Any:
        response = answer(request, np.eye(4, dtype=np.float32)[:1])
        response.raw_output_contents[0] = b"1234"
        return response

    async def other_name(request: Any, context: Any) -> Any:
        response = answer(request, np.eye(4, dtype=np.float32)[:1])
        response.outputs[0].name = "logits"
        return response

    async with connected(triton) as encoder:
        for give in (other_type, too_short, other_name):
            triton.infer = give
            with pytest.raises(ModelOutputInvalid):
                await encoder.encode_image(images(1))


def _fingerprint(triton: ScriptedTriton) -> None:
    triton.card["fingerprint"] = "cd" * 32


def _no_card(triton: ScriptedTriton) -> None:
    triton.card = {}


def _dimension(triton: ScriptedTriton) -> None:
    triton.embedding_dim = 5


def _type(triton: ScriptedTriton) -> None:
    triton.text_type = "INT32"


def _no_batches(triton: ScriptedTriton) -> None:
    triton.max_batch_size = 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_fingerprint, r"test/model \(cdcdcdcdcdcd\), expected the fingerprint abababababab"),
        (_no_card, "a model without a card"),
        (_dimension, r"text_embeds FP32 \[5\], expected text_embeds FP32 \[4\]"),
        (_type, r"input_ids INT32 \[-1\], expected input_ids INT64 \[-1\]"),
        (_no_batches, "max_batch_size"),
    ],
)
async def test_another_model_behind_the_name_is_refused_until_it_is_the_right_one(
    change: Any, said: str
) -> None:
    triton = ScriptedTriton()
    async with connected(triton) as encoder:
        await encoder.encode_image(images(1))
        right = dict(vars(triton), card=dict(triton.card))
        change(triton)
        with pytest.raises(EncoderUnavailable, match=said):
            await encoder.health()
        asked = len(triton.requests)
        with pytest.raises(EncoderUnavailable, match=said):
            await encoder.encode_image(images(1))
        assert len(triton.requests) == asked, "the wrong model was asked"
        vars(triton).update(right)
        await encoder.health()
        await encoder.encode_image(images(1))


async def test_the_first_request_asks_whose_model_it_is() -> None:
    triton = ScriptedTriton()
    _fingerprint(triton)
    async with connected(triton) as encoder:
        with pytest.raises(EncoderUnavailable, match="fingerprint"):
            await encoder.encode_image(images(1))
    assert triton.requests == []


async def test_triton_is_told_how_long_the_call_has_left() -> None:
    triton = ScriptedTriton()
    async with connected(triton, timeout_s=30) as encoder:
        await encoder.encode_image(images(1))
        with call_ends_in(5):
            await encoder.encode_image(images(1))
        with call_ends_in(1000):
            await encoder.encode_image(images(1))
    for request, deadline_s, bound_s in zip(
        triton.requests, triton.deadlines_s, (30, 5, 30), strict=True
    ):
        assert deadline_s == pytest.approx(bound_s, abs=1)
        assert 0 < request.parameters["timeout"].int64_param <= bound_s * 1_000_000


async def test_a_request_that_takes_too_long_ends_at_the_deadline() -> None:
    triton = ScriptedTriton()
    triton.infer = triton.never
    async with connected(triton, timeout_s=0.2) as encoder:
        with pytest.raises(DeadlineExceeded):
            await encoder.encode_image(images(1))
        await triton.cancelled.wait()


async def test_who_gives_up_ends_the_request_at_triton() -> None:
    triton = ScriptedTriton()
    triton.infer = triton.never
    async with connected(triton) as encoder:
        call = asyncio.create_task(encoder.encode_image(images(1)))
        await triton.arrived.acquire()
        call.cancel()
        await triton.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_call_whose_time_is_over_is_not_sent() -> None:
    triton = ScriptedTriton()
    async with connected(triton) as encoder:
        await encoder.health()
        with call_ends_in(0), pytest.raises(DeadlineExceeded):
            await encoder.encode_image(images(1))
    assert triton.requests == []


async def test_triton_may_come_later_and_go_and_come_back() -> None:
    triton = ScriptedTriton()
    async with serving(triton) as address:
        pass
    encoder = TritonEncoder(CARD, address=address, timeout_s=5)
    async with encoder:
        assert "not reached" in encoder.description
        for _ in range(2):
            with pytest.raises(EncoderUnavailable, match="cannot be reached"):
                await encoder.health()
            with pytest.raises(EncoderUnavailable):
                await encoder.encode_image(images(1))
            async with serving(triton, address):
                await until_healthy(encoder)
                assert encoder.description == f"triton 1.2.3 at {address}"
                await encoder.encode_image(images(1))


async def until_healthy(encoder: TritonEncoder) -> None:
    """Asks until it works: of the connection, which tells nobody."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await encoder.health()
            except EncoderUnavailable:
                await asyncio.sleep(0.05)


async def test_a_triton_too_busy_to_say_what_it_is_is_not_taken_out() -> None:
    triton = ScriptedTriton()
    async with connected(triton) as encoder:
        await encoder.health()
        triton.metadata_gate.clear()
        check = asyncio.create_task(encoder.health())
        await asyncio.sleep(0)
        while not check.done():
            await encoder.encode_image(images(1))
        await check
        with pytest.raises(EncoderUnavailable, match="does not answer"):
            await encoder.health()  # nor does anything else


async def test_row_45_a_pause_of_the_server_is_not_taken_for_one_of_triton() -> None:
    triton = ScriptedTriton()
    async with connected(triton) as encoder:
        await encoder.health()
        triton.metadata_gate.clear()
        check = asyncio.create_task(encoder.health())
        await asyncio.sleep(0.01)
        until = time.monotonic() + 1.1
        while time.monotonic() < until:
            pass
        await check
        with pytest.raises(EncoderUnavailable, match="does not answer"):
            await encoder.health()


async def test_a_certificate_file_encrypts_the_connection(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    triton = ScriptedTriton()
    async with serving(triton, credentials=credentials) as address:
        async with TritonEncoder(CARD, address=address, timeout_s=5, ca_file=ca_file) as encoder:
            await encoder.encode_image(images(1))
        async with TritonEncoder(CARD, address=address, timeout_s=5) as plain:
            with pytest.raises(EncoderUnavailable):
                await plain.encode_image(images(1))


async def test_a_file_of_no_certificates_ends_the_start(tmp_path: Path) -> None:
    garbage = tmp_path / "ca.pem"
    garbage.write_bytes(b"\xff no certificate")
    for file in (tmp_path, garbage):
        with pytest.raises(StartupError, match=r"triton\.ca_file"):
            async with TritonEncoder(CARD, address="127.0.0.1:1", timeout_s=5, ca_file=file):
                pass
