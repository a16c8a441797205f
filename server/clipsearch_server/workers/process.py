"""One of the processes that share a port. Run as ``python -m clipsearch_server.workers.process``;
supervisor.py starts it.

It reads its settings, pickled, from standard input, and writes one line to standard output: that
it serves, or why it cannot. It ends with its parent. At SIGTERM or SIGINT it drains, however many
come: what stops a whole group of processes, as systemd does, tells each of them, and then the
parent does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pickle
import sys
from typing import NoReturn

from clipsearch_server import log_lines
from clipsearch_server.errors import ModelMismatch, StartupError
from clipsearch_server.parent import die_with
from clipsearch_server.serving import serve
from clipsearch_server.settings import Settings
from clipsearch_server.stopping import told_to_stop_by_any

SERVING = "serving"

_log = logging.getLogger(__name__)


def main() -> NoReturn:
    """Serves until it is told to stop."""
    arguments = _parse(sys.argv[1:])
    die_with(arguments.parent)
    settings: Settings = pickle.load(sys.stdin.buffer)
    # What a library prints must not pass for our word to the parent.
    word = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    log_lines.set_up(settings.log_level, settings.log_format, worker=arguments.number)

    def tell(what: str) -> None:
        with word:
            word.write(what + "\n")

    def on_serving(address: str) -> None:
        _log.info("serving pid=%d", os.getpid())
        tell(SERVING)

    async def work() -> None:
        await serve(settings, told_to_stop_by_any(), shares_port=True, on_serving=on_serving)

    code = 0
    try:
        asyncio.run(work())
    except (StartupError, ModelMismatch) as error:
        tell(error.message)
        code = 1
    logging.shutdown()
    os._exit(code)  # see __main__.run


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clipsearch-worker", description=__doc__)
    parser.add_argument("--number", type=int, required=True, help="which of the workers it is")
    parser.add_argument("--parent", type=int, required=True, help="id of the parent's process")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
