"""The encoders on an NVIDIA Triton Inference Server, over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from clipsearch_server import tracing
from clipsearch_server.certificates import read_root_certificates
from clipsearch_server.deadline import remaining_s
from clipsearch_server.encoders.output import check_embeddings
from clipsearch_server.encoders.triton_model import (
    TowerSpec,
    difference,
    pad_to_bucket,
    text_tower,
    vision_tower,
)
from clipsearch_server.errors import (
    ClipsearchError,
    DeadlineExceeded,
    EncoderUnavailable,
    ModelOutputInvalid,
    Overloaded,
)
from clipsearch_server.lateness import we_were_late
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import Embeddings, Pixels, TokenIds

# Less than what `rpc/health` waits for an answer.
_CHECK_TIMEOUT_S = 0.8
_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A peer that vanished without a word is noticed within 15 s. Only while calls are under way:
    # Triton ends connections that ping it without.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A Triton that comes back is found again within a second; gRPC's default grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # for one attempt, TLS included, whatever its name
    # A proxy is for the URLs that are fetched, and not for a neighbour.
    ("grpc.enable_http_proxy", 0),
]
# What Triton's core says of a request that its queue has no room for, and of one that waited there
# for longer than it may (core/src/scheduler_utils.cc; both are UNAVAILABLE).
_QUEUE_FULL = "Exceeds maximum queue size"
_QUEUE_TIMEOUT = "Request timeout expired"


class TritonEncoder:
    """Runs both towers of a model folder on a Triton server. Implements the port `Encoder`.

    Each call is one request, cut only to what Triton takes at once: `BatchingEncoder` puts texts
    together and bounds how many requests are under way, and Triton merges those of several servers
    that are padded alike. (Its batcher alone does not do for texts: it ends a batch at each request
    of another shape, so 64 texts of three lengths in turn made 36 batches.) A request may take what
    its call has left, and ``timeout_s`` at most; Triton is told, so that it drops from its queue
    what nobody waits for any more.

    With ``tls``, or a ``ca_file`` of root certificates (PEM), the connection is encrypted.

    Entering never waits for Triton. Whether it serves, and serves the model of ``card``, is asked
    by the first request and by every ``health``, which is to be asked once a second or so; until
    then, and after a check that failed, requests get EncoderUnavailable at once. Whether it answers
    requests, and rightly, is not asked here: `ProvenEncoder` does.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        address: str,
        timeout_s: float,
        tls: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        self._card = card
        self._address = address
        self._timeout_s = timeout_s
        self._tls = tls
        self._ca_file = ca_file
        self._version = ""
        self._problem: str | None = None
        self._checked = False

    async def __aenter__(self) -> Self:
        credentials = None
        if self._tls or self._ca_file:
            roots = None
            if self._ca_file:
                roots = await asyncio.to_thread(
                    read_root_certificates, self._ca_file, "triton.ca_file"
                )
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        self._client: Any = InferenceServerClient(
            self._address, creds=credentials, channel_args=_CHANNEL_OPTIONS
        )
        self._text = _Tower(self._client, text_tower(self._card))
        self._vision = _Tower(self._client, vision_tower(self._card))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def description(self) -> str:
        return f"triton {self._version or '(not reached yet)'} at {self._address}"

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        return await self._encode(self._text, self._pad(token_ids))

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        return await self._encode(self._vision, pixels)

    async def health(self) -> None:
        self._problem = await self._find_problem()
        self._checked = True
        if self._problem is not None:
            raise EncoderUnavailable(self._problem)

    def _pad(self, token_ids: TokenIds) -> TokenIds:
        return pad_to_bucket(token_ids, self._card.end_token_id, self._card.max_tokens)

    async def _encode(self, tower: _Tower, rows: NDArray[Any]) -> Embeddings:
        if not self._checked:
            await self.health()
        if self._problem is not None:
            raise EncoderUnavailable(self._problem)
        ends_at = monotonic() + remaining_s(self._timeout_s)
        parts = [
            await tower.infer(rows[start : start + tower.max_batch], ends_at - monotonic())
            for start in range(0, len(rows), tower.max_batch)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    async def _find_problem(self) -> str | None:
        """Asks Triton; returns what keeps it from working, for people."""
        where = f"Triton at {self._address}"
        towers = (self._text, self._vision)
        start = monotonic()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                server, *problems = await asyncio.gather(
                    self._client.get_server_metadata(),
                    *(tower.check(self._card.fingerprint) for tower in towers),
                )
        except TimeoutError:
            if any(tower.answered_at > start for tower in towers):
                return None  # busy, and at work
            if self._checked and we_were_late(monotonic() - start, _CHECK_TIMEOUT_S):
                return self._problem  # who knows
            return f"{where} does not answer within {_CHECK_TIMEOUT_S} s"
        except InferenceServerException as error:
            return f"{where}: {_explained(error)}"
        self._version = server.version
        return next((f"{where}: {problem}" for problem in problems if problem), None)


class _Tower:
    """One model of Triton's."""

    def __init__(self, client: Any, spec: TowerSpec) -> None:
        self._client = client
        self._spec = spec
        self._outputs = [InferRequestedOutput(spec.output_name)]
        self.answered_at = 0.0
        self.max_batch = 1  # as Triton's configuration says, once it was read

    async def check(self, fingerprint: str) -> str | None:
        """Returns what differs from the expected model, if anything does."""
        metadata, response = await asyncio.gather(
            self._client.get_model_metadata(self._spec.name),
            self._client.get_model_config(self._spec.name),
        )
        if problem := difference(self._spec, fingerprint, metadata, response.config):
            return problem
        self.max_batch = response.config.max_batch_size
        return None

    async def infer(self, rows: NDArray[Any], timeout_s: float) -> Embeddings:
        """(n, ...) of at most max_batch rows -> (n, d) float32, checked."""
        if timeout_s <= 0:
            raise DeadlineExceeded("the time was over before Triton could be asked")
        spec = self._spec
        tensor = InferInput(spec.input_name, rows.shape, spec.input_type)
        tensor.set_data_from_numpy(rows)
        try:
            result = await self._client.infer(
                spec.name,
                [tensor],
                outputs=self._outputs,
                timeout=max(1, int(timeout_s * 1e6)),
                client_timeout=timeout_s,
                headers=tracing.headers(),
            )
            output = result.as_numpy(spec.output_name)
        except InferenceServerException as error:
            failure = _failure(error, spec.name, timeout_s)
            if isinstance(failure, ModelOutputInvalid):  # any other is not the model's own
                self.answered_at = monotonic()
            raise failure from error
        except ValueError as error:  # the bytes do not fill the shape
            raise ModelOutputInvalid(f"{spec.name} answered with a broken tensor") from error
        self.answered_at = monotonic()
        return check_embeddings(output, rows=len(rows), dim=spec.output_dims[0])


def _failure(error: InferenceServerException, name: str, timeout_s: float) -> ClipsearchError:
    """What Triton's answer to an inference means."""
    status, message = error.status(), error.message() or ""
    match status:
        case "StatusCode.UNAVAILABLE" if _QUEUE_FULL in message:
            return Overloaded("Triton's queue is full; try again in a moment")
        case "StatusCode.RESOURCE_EXHAUSTED":
            return Overloaded("Triton, or what is before it, is busy; try again in a moment")
        case "StatusCode.UNAVAILABLE" if _QUEUE_TIMEOUT in message:
            return DeadlineExceeded("the request waited for too long in Triton's queue")
        case "StatusCode.DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"Triton did not answer within {timeout_s:.3g} s")
        case "StatusCode.INTERNAL" | "StatusCode.INVALID_ARGUMENT":
            # The shapes were compared with Triton's own, so this is the model's failure.
            return ModelOutputInvalid(f"{name} failed: {status} {message}")
        case _:
            return EncoderUnavailable(f"Triton: {_explained(error)}")


def _explained(error: InferenceServerException) -> str:
    """One short line."""
    message = error.message() or ""
    if error.status() == "StatusCode.UNAVAILABLE" and "failed to connect" in message:
        return "cannot be reached"
    return (message.splitlines() or [str(error.status())])[0][:200]
