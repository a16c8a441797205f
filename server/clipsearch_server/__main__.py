"""The command `clipsearch-server`: settings in, exit code out."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from clipsearch_server import keys_command
from clipsearch_server.app import open_app
from clipsearch_server.configuration import load_settings, unknown_variables
from clipsearch_server.errors import ModelMismatch, StartupError
from clipsearch_server.settings import Settings

logger = logging.getLogger("clipsearch_server")


def run() -> NoReturn:
    """The entry point: ``main``, and an end that waits for nobody.

    Everything was closed in its order by then; what may still run are threads that hang in the
    system's resolver, for which Python would wait.
    """
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; `keys` before anything else changes the file of keys instead.

    Returns 0 after a drain, and 1, with one line on stderr, if the server cannot start. A second
    signal ends the process at once, with 128 and the signal's number.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["keys"]:
            return keys_command.main(argv[1:])
        settings = load_settings(argv)
        logging.basicConfig(
            level=settings.log_level,
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
            stream=sys.stderr,
        )
        for name in unknown_variables():
            logger.warning("environment variable %s is no setting; see --help", name)
        asyncio.run(_serve(settings))
    except (StartupError, ModelMismatch) as error:
        sys.stderr.write(f"clipsearch-server: {error.message}\n")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stopping)
    async with open_app(settings) as app:
        # What starting made stays for good. Collecting garbage, which stops the event loop, need
        # not look at it again: 25 to 56 ms each time (measured in bench/index_optimize.py).
        gc.collect()
        gc.freeze()
        logger.info(
            "serving address=%s model_dir=%s encoder=%s index=%s data_dir=%s",
            app.address,
            settings.model_dir,
            settings.encoder.backend,
            settings.index.backend,
            settings.data_dir,
        )
        await stopping.wait()
        logger.info("draining grace_s=%g", settings.grace_s)
        await app.drain()
    logger.info("stopped")


def _on_signal(number: signal.Signals, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        os._exit(128 + number)
    stopping.set()


if __name__ == "__main__":
    run()
