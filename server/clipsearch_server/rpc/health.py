"""grpc.health.v1, fed by what the ports say of themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from grpc_health.v1.health import aio as grpc_health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from clipsearch_server.errors import DependencyFailed
from clipsearch_server.rpc.interceptors import SERVICE_NAME

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_CHECK_TIMEOUT_S = 1.0


class HealthReporter:
    """Asks each dependency every second, and tells whoever asks grpc.health.v1.

    Names: ``""`` and the service's full name, which serve if all dependencies do, and the name of
    each dependency. A change is logged once, with its reason.
    """

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self.servicer = grpc_health.HealthServicer()
        self._checks = checks
        self._serving: dict[str, bool] = {}

    async def report(self) -> None:
        """Asks and tells until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_INTERVAL_S)

    async def check(self) -> None:
        """Asks every dependency once, and tells."""
        answers = await asyncio.gather(*(self._ask(name) for name in self._checks))
        for name in ("", SERVICE_NAME):
            await self._tell(name, all(answers))

    async def stop_serving(self) -> None:
        """Tells NOT_SERVING from now on, whatever the dependencies say."""
        await self.servicer.enter_graceful_shutdown()

    async def _ask(self, name: str) -> bool:
        reason = ""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._checks[name]()
        except DependencyFailed as error:
            reason = error.message
        except TimeoutError:
            reason = f"no answer within {_CHECK_TIMEOUT_S} s"
        except Exception:
            logger.exception("health check of %s failed", name)
            reason = "the check failed"
        if self._serving.get(name, True) != (not reason):
            logger.warning("health dependency=%s serving=%s reason=%s", name, not reason, reason)
        await self._tell(name, not reason)
        return not reason

    async def _tell(self, name: str, serving: bool) -> None:
        self._serving[name] = serving
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        await self.servicer.set(name, status)
