"""An encoder is given work only while it embeds the canary as its model does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest

from clipsearch_server.canary import Canary
from clipsearch_server.deadline import call_ends_in
from clipsearch_server.encoders.proven import ProvenEncoder
from clipsearch_server.encoders.triton import TritonEncoder
from clipsearch_server.errors import (
    DeadlineExceeded,
    EncoderUnavailable,
    ModelOutputInvalid,
    Overloaded,
)
from scripted_triton import CARD, ScriptedTriton, answer, serving

AXES = np.eye(4, dtype=np.float32)
CANARY = Canary(
    np.array([[0, 5, 9]]), AXES[0], np.full((1, 3, 8, 8), 7, np.uint8), AXES[0]
)  # as ScriptedTriton embeds everything
WAIT_S = 20.0  # for what takes a second; test_triton.py says by the clock what was promised
INTERVAL_S = 0.1  # between two checks


@asynccontextmanager
async def proven(
    triton: ScriptedTriton, canary: Canary = CANARY, *, timeout_s: float = 30
) -> AsyncIterator[ProvenEncoder]:
    async with (
        serving(triton) as address,
        TritonEncoder(CARD, address=address, timeout_s=timeout_s) as triton_encoder,
        ProvenEncoder(triton_encoder, canary, patience_s=0.4) as encoder,
    ):
        yield encoder


def texts(n: int = 1) -> Any:
    return np.full((n, 4), 5, np.int64)


def images(n: int = 1) -> Any:
    return np.zeros((n, 3, 8, 8), np.uint8)


def everything_as(row: Any) -> Any:
    async def give(request: Any, context: Any) -> Any:
        return answer(request, np.tile(row, (request.inputs[0].shape[0], 1)))

    return give


async def until_sick(encoder: ProvenEncoder) -> str:
    """Asks until it does not work; returns why."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await encoder.health()
            except EncoderUnavailable as error:
                return error.message
            await asyncio.sleep(INTERVAL_S)


async def until_refused(
    encoder: ProvenEncoder, encode: Callable[[Any], Awaitable[Any]], rows: Any
) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(EncoderUnavailable):  # who watches goes on to: only then is it proven
                await encoder.health()
            try:
                await encode(rows)
            except EncoderUnavailable:
                return
            await asyncio.sleep(INTERVAL_S)


async def until_well(encoder: ProvenEncoder) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await encoder.health()
            except EncoderUnavailable:
                await asyncio.sleep(INTERVAL_S)


async def test_another_model_of_the_same_shape_is_refused_until_the_right_one_is_back() -> None:
    triton = ScriptedTriton()
    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = everything_as(AXES[1])
        assert "cosine 0.000" in await until_sick(encoder)
        for call in (encoder.encode_text, texts()), (encoder.encode_image, images()):
            await until_refused(encoder, *call)  # the two towers are found out one after the other
        asked = len(triton.requests)
        for encode, rows in (encoder.encode_text, texts()), (encoder.encode_image, images()):
            with pytest.raises(EncoderUnavailable, match="other weights"):
                await encode(rows)
        assert len(triton.requests) == asked, "the wrong model was asked"
        triton.infer = triton.first_axis
        await until_well(encoder)
        await encoder.encode_text(texts())


async def test_what_a_wrong_model_answered_before_it_was_found_out_is_not_used() -> None:
    triton = ScriptedTriton()
    gate = asyncio.Event()

    async def wrong(request: Any, context: Any) -> Any:
        if request.inputs[0].shape[0] > 1:  # a caller's
            await gate.wait()
        return await everything_as(AXES[1])(request, context)

    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = wrong
        for _ in triton.requests:
            await triton.arrived.acquire()
        call = asyncio.create_task(encoder.encode_text(texts(2)))
        await triton.arrived.acquire()
        await until_sick(encoder)
        # Of the two towers the other one may have been found out first.
        await until_refused(encoder, encoder.encode_text, texts())
        gate.set()
        with pytest.raises(EncoderUnavailable, match="other weights"):
            await call


async def test_one_tower_that_is_wrong_is_refused_and_the_other_works() -> None:
    triton = ScriptedTriton()

    async def swapped_text(request: Any, context: Any) -> Any:
        give = everything_as(AXES[2]) if request.model_name == "clip_text" else triton.first_axis
        return await give(request, context)

    triton.infer = swapped_text
    async with proven(triton) as encoder:
        assert "the text encoder" in await until_sick(encoder)
        with pytest.raises(EncoderUnavailable):
            await encoder.encode_text(texts())
        await encoder.encode_image(images())


async def test_the_arithmetic_of_other_hardware_is_no_other_model() -> None:
    triton = ScriptedTriton()
    noisy = np.array([0.998, 0.0632, 0, 0], np.float32)
    triton.infer = everything_as(noisy / np.linalg.norm(noisy))
    async with proven(triton) as encoder:
        await encoder.health()
        await encoder.encode_text(texts())


async def test_what_is_no_embedding_turns_it_red_and_every_call_is_told() -> None:
    triton = ScriptedTriton()
    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = everything_as(np.full(4, np.nan, np.float32))
        assert "not of unit length" in await until_sick(encoder)
        with pytest.raises(ModelOutputInvalid):
            await encoder.encode_image(images())
        triton.infer = triton.first_axis
        await encoder.encode_image(images())
        await until_well(encoder)


async def test_without_a_known_embedding_a_change_is_noticed() -> None:
    triton = ScriptedTriton()
    canary = Canary(CANARY.token_ids, None, CANARY.pixels, None)
    triton.infer = everything_as(AXES[3])
    async with proven(triton, canary) as encoder:
        await encoder.health()
        await encoder.encode_text(texts())
        triton.infer = everything_as(-AXES[3])
        assert "cosine -1.000" in await until_sick(encoder)


async def test_the_first_call_waits_for_the_proof() -> None:
    triton = ScriptedTriton()
    triton.infer = everything_as(AXES[1])
    async with proven(triton) as encoder:
        with pytest.raises(EncoderUnavailable, match="other weights"):
            await encoder.encode_image(images())
        assert len(triton.requests) == 1, "more than the canary was embedded"


async def test_what_comes_back_after_an_absence_is_proven_before_it_gets_work() -> None:
    triton = ScriptedTriton()
    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = triton.failing(grpc.StatusCode.UNAVAILABLE, "gone")
        with pytest.raises(EncoderUnavailable, match="gone"):
            await encoder.encode_image(images())
        triton.infer = everything_as(AXES[1])
        with pytest.raises(EncoderUnavailable, match="other weights"):
            await encoder.encode_image(images())


async def test_row_35_a_model_that_hangs_is_found_and_calls_then_fail_at_once() -> None:
    """It answers what it is, and nothing else: only the silence shows."""
    triton = ScriptedTriton()
    async with proven(triton, timeout_s=1) as encoder:
        await encoder.health()
        triton.infer = triton.never
        with call_ends_in(0.1), pytest.raises(DeadlineExceeded):  # the caller's own time
            await encoder.encode_image(images())
        for encode, rows in (encoder.encode_image, images()), (encoder.encode_text, texts()):
            async with asyncio.timeout(WAIT_S):  # the two towers are found out one after the other
                while True:
                    assert "has not answered" in await until_sick(encoder)
                    with suppress(DeadlineExceeded), call_ends_in(0.1):
                        await until_refused(encoder, encode, rows)
                        break
        asked = len(triton.requests)
        async with asyncio.timeout(WAIT_S):
            for call in (encoder.encode_image(images()), encoder.encode_text(texts())):
                with pytest.raises(EncoderUnavailable, match="has not answered"):
                    await call
        assert len(triton.requests) == asked
        triton.infer = triton.first_axis
        await until_well(encoder)
        await encoder.encode_image(images())


async def test_row_35_a_request_may_take_the_budget_at_most() -> None:
    triton = ScriptedTriton()
    async with proven(triton, timeout_s=0.2) as encoder:
        await encoder.health()
        triton.infer = triton.never
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(DeadlineExceeded):
                await encoder.encode_image(images())


async def test_a_full_queue_does_not_hide_that_nothing_comes_out_of_it() -> None:
    triton = ScriptedTriton()
    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = triton.failing(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        with pytest.raises(Overloaded):
            await encoder.encode_image(images())
        assert "has not answered" in await until_sick(encoder)


@pytest.mark.by_the_clock
async def test_a_canary_that_finds_no_place_is_no_sickness_while_others_are_answered() -> None:
    triton = ScriptedTriton()
    canary_pixels = CANARY.pixels.tobytes()

    async def full_for_the_canary(request: Any, context: Any) -> Any:
        if request.raw_input_contents[0] == canary_pixels:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        return await triton.first_axis(request, context)

    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = full_for_the_canary
        for _ in range(7):
            await encoder.encode_image(images())
            await encoder.health()
            await asyncio.sleep(0.1)


@pytest.mark.by_the_clock
async def test_a_large_batch_is_given_the_time_that_it_takes() -> None:
    triton = ScriptedTriton()
    triton.max_batch_size = 64
    one_at_a_time = asyncio.Lock()

    async def slow(request: Any, context: Any) -> Any:
        async with one_at_a_time:
            await asyncio.sleep(0.03 * request.inputs[0].shape[0])
            return await triton.first_axis(request, context)

    triton.infer = slow
    async with proven(triton) as encoder:
        await encoder.health()
        batch = asyncio.create_task(encoder.encode_image(images(32)))  # 1 s without an answer
        while not batch.done():
            await encoder.health()
            await asyncio.sleep(INTERVAL_S)
        await batch


async def test_what_has_become_slow_for_good_is_used_in_the_end() -> None:
    triton = ScriptedTriton()

    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.6)
        return await triton.first_axis(request, context)

    async with proven(triton) as encoder:
        await encoder.health()
        triton.infer = slow
        await until_sick(encoder)
        in_a_row = 0
        async with asyncio.timeout(20):
            while in_a_row < 3:
                try:
                    await encoder.health()
                    in_a_row += 1
                except EncoderUnavailable:
                    in_a_row = 0
        await encoder.encode_text(texts())
