"""One of a model's two encoders in this process, and the threads that it computes in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.encoders.output import check_embeddings
from clipsearch_server.encoders.providers import Provider
from clipsearch_server.encoders.session import Session
from clipsearch_server.errors import ModelOutputInvalid, StartupError
from clipsearch_server.niceness import yield_to_others
from clipsearch_server.ports import Embeddings


class Tower:
    """Computes beside the event loop, as many batches at a time as its session does. If it
    ``yields``, its threads leave the processor to others that want it; if not, they spin."""

    def __init__(self, name: str, dim: int, *, yields: bool = False) -> None:
        self._name = name
        self._dim = dim
        self._yields = yields
        self._executor = ThreadPoolExecutor(
            2, thread_name_prefix=f"encode-{name}", initializer=yield_to_others if yields else None
        )
        self._session: Session | None = None

    async def close(self) -> None:
        """Waits for the calls under way."""
        await asyncio.to_thread(self._executor.shutdown)
        self._session = None

    @property
    def provider(self) -> str:
        return self._loaded.provider

    @property
    def concurrency(self) -> int:
        return self._loaded.concurrency

    async def load(
        self,
        file: Path,
        fingerprint: str,
        threads: int,
        providers: Sequence[Provider],
        *,
        example: NDArray[Any],
    ) -> None:
        """Loads the tower and runs it once, so that the first caller does not pay for it.

        Raises StartupError if the file is no model of this folder's, or does not run here.
        """

        def load() -> Session:
            session = Session(file, threads, providers, spin=not self._yields)
            if session.metadata.get("clipsearch.fingerprint") != fingerprint:
                raise StartupError(
                    f"{file}: belongs to another model than the card beside it; export the model "
                    "again"
                )
            return session

        loop = asyncio.get_running_loop()
        self._session = await loop.run_in_executor(self._executor, load)
        try:
            await self.run(example)
        except ModelOutputInvalid as error:
            raise StartupError(f"{file}: {error.message}") from error

    async def run(self, values: NDArray[Any]) -> Embeddings:
        """Embeds n rows. Raises ModelOutputInvalid if the model fails, or answers with anything but
        unit vectors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._run, self._loaded, values)

    @property
    def _loaded(self) -> Session:
        assert self._session is not None
        return self._session

    def _run(self, session: Session, values: NDArray[Any]) -> Embeddings:
        try:
            output = session.compute(values)
        except Exception as error:
            # The shapes were checked on the way here, so this is the model's failure.
            raise ModelOutputInvalid(f"the {self._name} encoder failed: {error}") from error
        return check_embeddings(np.asarray(output), rows=len(values), dim=self._dim)
