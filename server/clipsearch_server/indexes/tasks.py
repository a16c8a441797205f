"""Ending tasks of our own."""

from __future__ import annotations

import asyncio


async def cancel(task: asyncio.Task[None] | None) -> None:
    """Returns when the task, if there is one, has ended; an error of its own is left in it."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
