"""How Qdrant is reached: address, TLS, key, retries and keepalive."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from qdrant_client import AsyncQdrantClient

from clipsearch_server.certificates import read_root_certificates

_log = logging.getLogger(__name__)

DEFAULT_PORT = 6334  # of Qdrant's gRPC interface

# gRFC A6: gRPC repeats a call that could not be sent or whose connection broke, with jitter, and
# within its deadline. All that we ask of points is idempotent: reads, and writes by id. Nothing
# else is repeated: not by gRPC, and qdrant_client has no retries of its own (1.20, read).
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "qdrant.Points"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# qdrant_client's own default leaves the sizes of messages unlimited. What we send is cut small;
# what comes back is as much as a page holds, and Qdrant is a neighbour that we trust.
_OPTIONS: dict[str, str | int] = {
    "grpc.service_config": json.dumps(_SERVICE_CONFIG),
    "grpc.enable_retries": 1,
    "grpc.per_rpc_retry_buffer_size": 8 * 2**20,  # a larger request would be sent once only
    # A Qdrant that was away is found soon after its return: gRPC's own pauses grow to two minutes,
    # and it waits 20 s for a host that does not even refuse.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 250,
    "grpc.min_reconnect_backoff_ms": 1000,
    # A connection to a host that vanished is given up after 15 s. Health checks keep it from being
    # idle, so no pings are needed between calls.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    # Each index its own connection: gRPC otherwise shares one, and its backoff, in a process.
    "grpc.use_local_subchannel_pool": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QdrantServer:
    """Where Qdrant's gRPC interface is, and what it asks for."""

    url: str  # http://host:port, https for TLS
    api_key: str = field(default="", repr=False)  # empty: none
    ca_file: Path | None = None  # PEM: root certificates to trust instead of the system's

    @property
    def address(self) -> str:
        """host:port"""
        url = urlsplit(self.url)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{host}:{url.port or DEFAULT_PORT}"

    def connect(self, timeout_s: float) -> AsyncQdrantClient:
        """Returns a client whose calls take at most timeout_s, rounded up to a second; nothing is
        sent before the first.

        Reads files, so call it from a thread. Raises StartupError if ca_file cannot be used.
        """
        tls = urlsplit(self.url).scheme == "https"
        if self.api_key and not tls:
            _log.warning("the API key goes to Qdrant at %s unencrypted; use https", self.address)
        host, _, port = self.address.rpartition(":")
        return AsyncQdrantClient(
            host=host,
            grpc_port=int(port),
            https=tls,
            prefer_grpc=True,
            # Not as api_key, which turns TLS on by itself and warns if it is off: we have done so.
            headers={"api-key": self.api_key} if self.api_key else None,
            timeout=math.ceil(timeout_s),
            grpc_options={**_OPTIONS, **_proxy_options(host), **self._root_certificates()},
            pool_size=1,  # one HTTP/2 connection carries any number of calls
            check_compatibility=False,  # a thread that asks the REST interface, and only warns
        )

    def _root_certificates(self) -> dict[str, bytes]:
        if self.ca_file is None:
            return {}
        return {"root_certificates": read_root_certificates(self.ca_file, "qdrant.ca_file")}


def _proxy_options(host: str) -> dict[str, int]:
    # gRPC obeys http_proxy even for this machine, where a proxy leads nowhere.
    local = host in {"localhost", "127.0.0.1", "[::1]"}
    return {"grpc.enable_http_proxy": 0} if local else {}
