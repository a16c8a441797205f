"""The command `clipsearch-server`: settings in, exit code out."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

from clipsearch_server import configuration, keys_command, log_lines
from clipsearch_server.configuration import load_settings
from clipsearch_server.errors import ModelMismatch, StartupError
from clipsearch_server.settings import Settings
from clipsearch_server.stopping import told_to_stop
from clipsearch_server.workers.supervisor import supervise, workers_of

logger = logging.getLogger("clipsearch_server")

# What else the first argument may ask for; each takes those after it, and returns the exit code.
_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "config": configuration.show,
    "keys": keys_command.main,
}


def run() -> NoReturn:
    """The entry point: ``main``, and an end that waits for nobody.

    Everything was closed in its order by then; what may still run are threads that hang in the
    system's resolver, for which Python would wait.
    """
    # For this process and those that it starts, and before numpy is imported: its library would
    # start a thread for each core, which takes as long as all of that import, and never use them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # noqa: TID251
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, or does what the command says that the first argument is.

    Returns 0 after a drain, and 1, with one line on stderr, if the server cannot start; 1 also if
    one of several processes did not drain. A second signal ends the process at once, with 128 and
    the signal's number.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if arguments and arguments[0] in _COMMANDS:
            return _COMMANDS[arguments[0]](arguments[1:])
        settings = load_settings(arguments)
        log_lines.set_up(settings.log_level, settings.log_format)
        drained = asyncio.run(_serve(settings))
    except (StartupError, ModelMismatch) as error:
        sys.stderr.write(f"clipsearch-server: {error.message}\n")
        return 1
    return 0 if drained else 1


async def _serve(settings: Settings) -> bool:
    """Returns whether all that served has drained."""
    stopping = told_to_stop()
    on_serving = partial(_tell_serving, settings)
    if (workers := workers_of(settings)) > 1:
        return await supervise(settings, workers, stopping, on_serving=on_serving)
    # Imported only here: what supervises need not hold what serves.
    from clipsearch_server.serving import serve

    await serve(settings, stopping, on_serving=on_serving)
    return True


def _tell_serving(settings: Settings, address: str) -> None:
    logger.info(
        "serving address=%s model_dir=%s encoder=%s index=%s data_dir=%s",
        address,
        settings.model_dir,
        settings.encoder.backend,
        settings.index.backend,
        settings.data_dir,
    )


if __name__ == "__main__":
    run()
