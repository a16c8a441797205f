"""For every test."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import grpc.aio
import PIL.Image
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

# pytest imports readline, which tells the processes that it starts, those of pytest-xdist among
# them, how wide the terminal is: our own output is as wide as each test says.
os.environ.pop("COLUMNS", None)  # noqa: TID251

# Compiled once and kept, though the environment says otherwise: else each server that a test starts
# compiles all of itself anew, and each process of pytest-xdist every test.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # noqa: TID251
sys.dont_write_bytecode = False

# As in the server: a process that imports numpy needs no threads for it.
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # noqa: TID251

# The same examples in each run, so that a change is judged by what it changed. To look for others:
# --hypothesis-profile=explore. An example has no deadline: on busy cores it says nothing.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Who starts the tests in a shell's background has them ignore Ctrl-C, and every command with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PIXELS = PIL.Image.MAX_IMAGE_PIXELS

# Channels that the garbage collector finds after the last one was closed would start and stop
# gRPC's threads anew from wherever it happens to run: hold them for as long as there are tests.
grpc.aio.init_grpc_aio()


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A call of ours that blocks the event loop fails the test."""
    with blockbuster_ctx("clipsearch_server") as blockbuster:
        yield blockbuster


@pytest.fixture(autouse=True)
def pillow_limit() -> Iterator[None]:
    """Decoding sets it for its process, which here is that of all tests."""
    yield
    PIL.Image.MAX_IMAGE_PIXELS = _PIXELS


def pytest_collection_finish() -> None:
    """What all tests have imported stays: no garbage collection need look at it again."""
    gc.collect()
    gc.freeze()
