"""Opens two things side by side, where one after the other would wait."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def enter_both(
    stack: AsyncExitStack,
    first: AbstractAsyncContextManager[A],
    second: AbstractAsyncContextManager[B],
) -> tuple[A, B]:
    """Enters both at once; the stack owns them, and leaves the second first.

    If one cannot be entered, the other is given up on, and left to the stack if it was entered all
    the same. Raises the error of whichever failed, and of the first if both did.
    """
    contexts = (first, second)
    entering = (asyncio.create_task(first.__aenter__()), asyncio.create_task(second.__aenter__()))
    try:
        done, _ = await asyncio.wait(entering, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in entering:
            task.cancel()
        await asyncio.wait(entering)
        for context, entered in zip(contexts, entering, strict=True):
            if not entered.cancelled() and entered.exception() is None:
                stack.push_async_exit(context)
    for task in entering:
        if task in done:
            task.result()
    return entering[0].result(), entering[1].result()
