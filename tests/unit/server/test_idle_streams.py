"""The end of a stream on which nothing comes and goes."""

from __future__ import annotations

import asyncio

import pytest

from clipsearch_server.errors import DeadlineExceeded
from clipsearch_server.rpc.idle import ends_if_idle


async def test_a_message_in_the_moment_of_the_end_is_too_late_and_no_failure() -> None:
    async def stream() -> None:
        async with ends_if_idle(0.01) as note_message:
            try:
                await asyncio.sleep(60)
            finally:
                note_message()

    with pytest.raises(DeadlineExceeded, match="no message came or went"):
        await stream()
