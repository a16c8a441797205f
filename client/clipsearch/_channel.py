"""How both clients reach a server: address, TLS, message sizes, keepalive and retries."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path

import grpc

from clipsearch._tracing import Metadata

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_S = 30.0

_SERVICE = "clipsearch.v1.ImageSearchService"

# Every unary method may be repeated: reading changes nothing, adding and setting are idempotent,
# and what a repetition of a deletion misses, the server takes for deleted by the first attempt.
# But CreateCollection: its repetition finds what the first attempt has created.
_RETRIED_METHODS = (
    "AddImage",
    "DeleteAlias",
    "DeleteCollection",
    "DeleteImage",
    "EmbedTexts",
    "GetCollection",
    "GetImage",
    "GetServerInfo",
    "ListCollections",
    "ListImages",
    "Query",
    "QueryImage",
    "QueryText",
    "QueryTexts",
    "SetAlias",
    "UpdateCollection",
)

# gRFC A6. UNAVAILABLE only (AIP-194); an overloaded server says itself when to come again, which a
# policy that retries its status code would not wait for: see _retry.py.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": _SERVICE, "method": method} for method in _RETRIED_METHODS],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# gRPC keeps a request for its retries up to this size, and sends a larger one once only. Its
# default of 256 KiB is less than a photograph; a server's default limit is 16 MiB.
_RETRY_BUFFER_BYTES = 32 * 1024 * 1024

# Servers allow one ping in five minutes and hang up on more (grpc/doc/keepalive.md); firewalls and
# load balancers forget a silent connection in about as long.
_KEEPALIVE_TIME_MS = 300_000
_KEEPALIVE_TIMEOUT_MS = 20_000

# host:port of this machine.
_LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?\Z", re.IGNORECASE)

# How long after a failed attempt to connect the next one is made at the latest. gRPC's own two
# minutes would leave a server that has long come back unnoticed.
_MAX_RECONNECT_BACKOFF_MS = 5_000

_Options = list[tuple[str, str | int]]


def open_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """Returns a channel to ``host:port``, encrypted if there are credentials; nothing is sent
    before the first call."""
    if credentials is None:
        return grpc.insecure_channel(target, _options(target))
    return grpc.secure_channel(target, credentials, _options(target))


def open_aio_channel(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """Returns as ``open_channel``, for the running event loop."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, _options(target))
    return grpc.aio.secure_channel(target, credentials, _options(target))


def channel_credentials(
    *,
    tls: bool,
    ca_file: str | PathLike[str] | None,
    client_cert_file: str | PathLike[str] | None,
    client_key_file: str | PathLike[str] | None,
) -> grpc.ChannelCredentials | None:
    """Returns what a channel needs for TLS; None if it is not asked for, which a file does too.

    Raises OSError if a file cannot be read, and ValueError if a client's certificate comes without
    its key or the other way round.
    """
    if (client_cert_file is None) != (client_key_file is None):
        raise ValueError("a client's certificate and its key are given together or not at all")
    if not tls and ca_file is None and client_cert_file is None:
        return None
    roots, key, chain = (
        None if file is None else Path(file).read_bytes()
        for file in (ca_file, client_key_file, client_cert_file)
    )
    return grpc.ssl_channel_credentials(roots, key, chain)


def call_metadata(
    api_key: str | None, target: str, *, is_encrypted: bool, send_key_unencrypted: bool
) -> Metadata:
    """Returns what each call brings: the key, if there is one.

    Raises ValueError, which does not show the key, if it is none, or if it would cross a network
    for everybody to read.
    """
    if api_key is None:
        return ()
    if not re.fullmatch(r"[!-~]+", api_key):
        raise ValueError("an API key is printable ASCII without spaces or line ends")
    if not (is_encrypted or send_key_unencrypted or _LOCAL.match(target)):
        raise ValueError(f"the API key would be sent to {target} unencrypted; use TLS")
    return (("authorization", f"Bearer {api_key}"),)


def _options(target: str) -> _Options:
    options: _Options = [
        ("grpc.max_send_message_length", -1),  # the server sets the limit and says so
        ("grpc.max_receive_message_length", -1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_BACKOFF_MS),
        # Each client its own connection: gRPC otherwise shares one, and its backoff, in a process.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _LOCAL.match(target):
        # gRPC obeys http_proxy even for this machine, where a proxy leads nowhere.
        options.append(("grpc.enable_http_proxy", 0))
    return options
