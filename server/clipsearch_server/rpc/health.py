"""grpc.health.v1, fed by what the ports say of themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from clipsearch_server import metrics
from clipsearch_server.errors import ClipsearchError
from clipsearch_server.lateness import we_were_late
from clipsearch_server.rpc.call_record import SERVICE_NAME
from clipsearch_server.rpc.options import Context

logger = logging.getLogger(__name__)

# Together less than the 2 s in which a sickness is to be told.
_INTERVAL_S = 0.5
_CHECK_TIMEOUT_S = 1.4


class HealthReporter(HealthServicer):  # type: ignore[misc]  # grpc_health ships no types
    """Asks each dependency twice a second, and tells whoever asks grpc.health.v1.

    Names: ``""`` and the service's full name, which serve if all dependencies do, and the name of
    each dependency. How each is at first, and each change, is logged once, with its reason.
    grpcio's own servicer would do, but for its Watch, which holds up a server that is to stop.
    """

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._checks = checks
        self._serving = dict.fromkeys(("", SERVICE_NAME, *checks), False)
        self._reasons: dict[str, str] = {}  # why each does not serve, "" if it does, once asked
        self._stopping = False
        self._changed = asyncio.Condition()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        # It may stay for long, and the names stay the same.
        name = request.service if request.service in self._serving else None
        del request
        told: int | None = None

        def news() -> bool:
            return self._stopping or self._status(name) != told

        while not (self._stopping and self._status(name) == told):
            async with self._changed:
                await self._changed.wait_for(news)
            told = self._status(name)
            yield HealthCheckResponse(status=told)

    async def report(self) -> None:
        """Asks and tells until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_INTERVAL_S)

    async def check(self) -> None:
        """Asks every dependency once, and tells."""
        answers = await asyncio.gather(*(self._ask(name) for name in self._checks))
        serving = dict(zip(self._checks, answers, strict=True))
        await self._tell(serving | dict.fromkeys(("", SERVICE_NAME), all(answers)))

    async def stop_serving(self) -> None:
        """Tells NOT_SERVING from now on, whatever the dependencies say, and ends every Watch."""
        self._stopping = True
        await self._tell({})

    async def _ask(self, name: str) -> bool:
        reason = ""
        start = monotonic()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._checks[name]()
        except ClipsearchError as error:  # one that an operator is meant to read
            reason = error.message
        except TimeoutError:
            if we_were_late(monotonic() - start, _CHECK_TIMEOUT_S):
                return self._serving[name]  # who knows
            reason = f"no answer within {_CHECK_TIMEOUT_S} s"
        except Exception:  # whatever it is, the dependency is not known to work
            logger.exception("health check of %s failed", name)
            reason = "the check failed"
        serving = not reason
        metrics.DEPENDENCY_SERVING.labels(name).set(serving)
        if reason != self._reasons.get(name):
            self._reasons[name] = reason
            level = logging.INFO if serving else logging.WARNING
            logger.log(level, "health dependency=%s serving=%s %s", name, serving, reason or "ok")
        return serving

    async def _tell(self, serving: Mapping[str, bool]) -> None:
        async with self._changed:
            before = self._serving.copy()
            self._serving.update(serving)
            if self._stopping or self._serving != before:
                self._changed.notify_all()

    def _status(self, name: str | None) -> int:
        if name is None:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        serving = self._serving[name] and not self._stopping
        return int(HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
