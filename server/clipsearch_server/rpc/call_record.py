"""What is told of a call: its line in the log, its metrics, its span, and the id that they share.

The id is the caller's own ``x-request-id``, or one made here; either goes back in the trailing
metadata. A text, a URL, a key or an item's id is in none of it.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from time import perf_counter

from google.rpc import code_pb2, status_pb2

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server import errors, log_lines, metrics, tracing
from clipsearch_server.callers import ANYBODY, Caller
from clipsearch_server.rpc.methods import METHODS, Work
from clipsearch_server.rpc.options import Context
from clipsearch_server.rpc.status import CODES, reason_of

logger = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ImageSearchService"].full_name
REQUEST_ID = "x-request-id"

# What others name requests with, and nothing that could be taken for more than a name.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:=-]{1,64}")

# As go-grpc-prometheus writes them: "InvalidArgument".
_CODE_NAMES = {
    code: {"OK": "OK", "CANCELLED": "Canceled"}.get(name, name.title().replace("_", ""))
    for name, code in code_pb2.Code.items()
}

_OK = int(code_pb2.OK)
# The reasons for which a call is turned away, at the door or by what is full further in.
_REFUSALS = {
    kind.reason
    for kind in (
        errors.Overloaded,
        errors.QuotaExceeded,
        errors.Unauthenticated,
        errors.PermissionDenied,
    )
}


def _grpc_types() -> dict[str, str]:
    """How many messages each way a method has, as go-grpc-prometheus calls it."""
    names = {
        (False, False): "unary",
        (True, False): "client_stream",
        (False, True): "server_stream",
        (True, True): "bidi_stream",
    }
    methods = pb.DESCRIPTOR.services_by_name["ImageSearchService"].methods
    return {it.name: names[it.client_streaming, it.server_streaming] for it in methods}


# What a call can end with.
_CODES = sorted({_OK, code_pb2.CANCELLED, code_pb2.INTERNAL, *CODES.values()})
# Those that need no more than the class of an error to be known.
_REASONS = {
    kind.reason
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ClipsearchError)
} - {errors.StartupError.reason}


class _Method:
    """What is counted of one method: looked up once, since looking up costs more than counting."""

    def __init__(self, grpc_type: str, name: str) -> None:
        labels = (grpc_type, SERVICE_NAME, name)
        self.work = METHODS[name].work
        self.started = metrics.STARTED.labels(*labels)
        self.seconds = metrics.HANDLING_SECONDS.labels(*labels)
        self.handled = {code: metrics.HANDLED.labels(*labels, _CODE_NAMES[code]) for code in _CODES}
        self.in_flight = metrics.IN_FLIGHT.labels(self.work)


@cache
def _methods() -> dict[str, _Method]:
    """By name. Made for the first call, or by `begin_at_zero`."""
    return {name: _Method(grpc_type, name) for name, grpc_type in _grpc_types().items()}


def begin_at_zero() -> None:
    """Shows what calls can end with, so that the first failure is an increase."""
    _methods()
    for reason in _REASONS:
        metrics.ERRORS.labels(reason)
    for reason in (errors.ClipsearchError.reason, errors.ModelOutputInvalid.reason):
        metrics.INTERNAL_ERRORS.labels(reason)
    for work in Work:
        for refusal in _REFUSALS:
            metrics.REFUSED.labels(work, refusal)


class CallRecord:
    """One call, from its beginning, in its task, to `end`."""

    def __init__(self, method: str, context: Context) -> None:
        self.caller: Caller = ANYBODY
        self.method = method
        self._counts = _methods()[method]
        self._start = perf_counter()
        # Asked now: gRPC frees a cancelled call under its handler, and asking that one crashes us.
        self._peer = context.peer()
        self._code = _OK
        self._reason = ""
        self._has_line = True
        metadata = context.invocation_metadata() or ()
        self._request_id = _request_id(metadata)
        # Never reset: the call has a task of its own, and may be closed from another.
        log_lines.request_id.set(self._request_id)
        self._span = tracing.begin_call(f"{SERVICE_NAME}/{method}", metadata)
        context.set_trailing_metadata(self.trailing_metadata)
        self._counts.started.inc()

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller is told besides the answer."""
        return ((REQUEST_ID, self._request_id),)

    def admitted(self) -> AbstractContextManager[None]:
        """The call's work begins, and is under way for as long as the block lasts."""
        return self._counts.in_flight.track_inprogress()

    def cancelled(self) -> None:
        """The caller has gone."""
        self._code = int(code_pb2.CANCELLED)

    def failed(self, status: status_pb2.Status, *, line: bool = True) -> None:
        """The call is answered with a status that `to_status` made, and gets no line of its own in
        the log if others sum it up."""
        self._has_line = line
        self._code, self._reason = status.code, reason_of(status)
        if self._reason in _REFUSALS:
            metrics.REFUSED.labels(self._counts.work, self._reason).inc()

    def end(self) -> None:
        """Tells of the call."""
        seconds = perf_counter() - self._start
        self._counts.handled[self._code].inc()
        self._counts.seconds.observe(seconds)
        if self.caller.name:
            metrics.CALLER_CALLS.labels(self.caller.name, _CODE_NAMES[self._code]).inc()
        if self._has_line:
            self._log(seconds)
        if self._span is not None:
            tracing.end_call(self._span, self._code, self._reason)

    def _log(self, seconds: float) -> None:
        fields: dict[str, object] = {"method": self.method, "code": code_pb2.Code.Name(self._code)}
        if self._reason:
            fields["reason"] = self._reason
        fields |= {"ms": round(seconds * 1000, 1), "peer": self._peer}
        if self.caller.name:
            fields["caller"] = self.caller.name
        template = " ".join(("call", *(f"{name}=%s" for name in fields)))
        # Strangers are counted in a line a minute instead (`authentication`): they fill no disk.
        is_stranger = self._code == code_pb2.UNAUTHENTICATED
        logger.log(logging.DEBUG if is_stranger else logging.INFO, template, *fields.values())


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _WELL_FORMED.fullmatch(value):
            return value
    return secrets.token_hex(8)
