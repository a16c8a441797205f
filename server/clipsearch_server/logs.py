"""What is logged, and how."""

from __future__ import annotations

import logging
import sys

from clipsearch_server.settings import Settings

logger = logging.getLogger("clipsearch_server")


def log_to_stderr(settings: Settings, *, worker: int | None = None) -> None:
    """Has this process log as the settings say, with the number of the worker that it is."""
    who = "" if worker is None else f" worker={worker}"
    logging.basicConfig(
        level=settings.log_level,
        format=f"%(asctime)s %(levelname)s %(name)s{who} %(message)s",
        stream=sys.stderr,
    )


def tell_serving(settings: Settings, address: str) -> None:
    """Logs the line by which everybody knows that the server serves."""
    logger.info(
        "serving address=%s model_dir=%s encoder=%s index=%s data_dir=%s",
        address,
        settings.model_dir,
        settings.encoder.backend,
        settings.index.backend,
        settings.data_dir,
    )
