"""What counting and logging cost a QueryText: microseconds, and their share of the call.

    .venv-dev/bin/python bench/observing_cost.py

The parts are timed by themselves, since a few microseconds cannot be seen in a call that takes
milliseconds. The call is timed by the server, with the demo model and 200 images.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import timeit
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any, cast

from measuring import fill

from clipsearch import SearchClient
from clipsearch_server import metrics
from clipsearch_server.log_lines import JsonFormatter, TextFormatter
from clipsearch_server.rpc.call_record import CallRecord
from clipsearch_server.stages import stage
from clipsearch_server.testing import ServerProcess

STAGES_PER_QUERY = 4  # tokenise, embed, and search twice


class Call:
    """As much of a call as its record asks for."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-python-asyncio/1.80.1"),)

    def set_trailing_metadata(self, metadata: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=2_000)
    arguments = parser.parse_args()
    call_us = served_us(arguments.queries)
    handler = logging.StreamHandler(io.StringIO())
    logging.basicConfig(level="WARNING", handlers=[handler])
    record_us = best_us(record)
    counting_us = record_us + STAGES_PER_QUERY * best_us(staged) + best_us(batched)
    print(f"QueryText, median of {arguments.queries}: {call_us:,.0f} us in the server")
    print(f"counting: {counting_us:.1f} us, {counting_us / call_us:.2%}")
    logging.getLogger().setLevel("INFO")
    for formatter in (TextFormatter(), JsonFormatter()):
        handler.setFormatter(formatter)
        line_us = best_us(record) - record_us
        print(f"its line, {type(formatter).__name__}: {line_us:.1f} us, {line_us / call_us:.2%}")


def served_us(queries: int) -> float:
    """Returns the median of what the server says that a query took."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("--data-dir", folder) as server,
        SearchClient(server.address) as client,
    ):
        fill(client, 200)
        # Each a text of its own, which no cache knows.
        texts = (f"picture number {number}" for number in range(queries))
        took = [client.query_text(text).timings_ms["total"] for text in texts]
    return median(took) * 1000


def record() -> None:
    """From a call's beginning to its line in the log."""
    call = CallRecord("QueryText", cast("Any", Call()))
    with call.admitted():
        pass
    call.end()


def staged() -> None:
    with stage("embed"):
        pass


def batched() -> None:
    """A text through the encoder's queue, and by the cache."""
    metrics.QUEUE_ROWS.labels("text").inc(1)
    metrics.QUEUE_ROWS.labels("text").inc(-1)
    metrics.BATCH_ROWS.labels("text").observe(1)
    metrics.CACHE_REQUESTS.labels("text", "miss").inc()


def best_us(work: Callable[[], None], times: int = 2_000) -> float:
    # In processor time, which others on the machine do not take.
    took = timeit.repeat(work, timer=process_time, number=times, repeat=10)
    return min(took) / times * 1e6


if __name__ == "__main__":
    main()
