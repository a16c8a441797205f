"""Opens what the settings say of who may call, and over what kind of connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc

from clipsearch_server import metrics
from clipsearch_server.errors import StartupError
from clipsearch_server.identity.api_keys import KeyRing
from clipsearch_server.identity.exposure import is_loopback
from clipsearch_server.identity.key_file import read_key_ring
from clipsearch_server.identity.reloading import Reloaded
from clipsearch_server.identity.tls import Certificate, server_credentials, warn_of_expiry
from clipsearch_server.rpc.authentication import Authenticator
from clipsearch_server.rpc.interceptors import Authenticate, let_anybody_in
from clipsearch_server.settings import Settings

logger = logging.getLogger(__name__)

# For so long, a revoked key or a former certificate may still be used.
_CHECK_EVERY_S = 1.0
_LOG_REFUSED_EVERY = timedelta(seconds=60)
_WARN_OF_EXPIRY_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """How the server knows its callers, and they know it."""

    authenticate: Authenticate
    certificate: Reloaded[Certificate] | None  # None: connections are not encrypted
    requires_client_certificate: bool

    def listen(self, server: grpc.aio.Server, address: str) -> int:
        """Has the server listen on ``host:port``, and returns the port. Raises RuntimeError."""
        if self.certificate is None:
            return server.add_insecure_port(address)
        credentials = server_credentials(
            self.certificate, require_client_certificate=self.requires_client_certificate
        )
        return server.add_secure_port(address, credentials)


@asynccontextmanager
async def open_identity(settings: Settings) -> AsyncIterator[Identity]:
    """Reads keys and certificates, and has them follow their files until the block is left.

    Raises StartupError if a file cannot be used, or if strangers could call and the settings do not
    say that this is meant.
    """
    await _check_exposure(settings)
    ring = await asyncio.to_thread(_open_keys, settings)
    certificate = await asyncio.to_thread(_open_certificate, settings)
    authenticator = Authenticator(lambda: ring.value) if ring is not None else None
    following = asyncio.create_task(_follow(ring, certificate, authenticator), name="identity")
    try:
        yield Identity(
            authenticate=authenticator or let_anybody_in,
            certificate=certificate,
            requires_client_certificate=settings.tls.client_ca_file is not None,
        )
    finally:
        following.cancel()
        if authenticator is not None:
            authenticator.log_refused()


async def _check_exposure(settings: Settings) -> None:
    if await is_loopback(settings.address):
        return
    lacking = []
    if settings.auth.keys_file is None:
        lacking.append("without auth.keys_file it would serve anybody")
    if settings.tls.cert_file is None:
        lacking.append("without tls.cert_file it would send everything unencrypted")
    if not lacking:
        return
    problem = f"other machines can reach {settings.address}, and {' and '.join(lacking)}"
    if not settings.insecure:
        raise StartupError(
            f"{problem}; set these (docs/security.md), listen on 127.0.0.1, or pass --insecure if "
            "something before the server keeps strangers out"
        )
    logger.warning("insecure: %s", problem)


def _open_keys(settings: Settings) -> Reloaded[KeyRing] | None:
    file = settings.auth.keys_file
    if file is None:
        return None
    ring = Reloaded("keys", [file], partial(read_key_ring, file))
    if not len(ring.value):
        logger.warning("%s lists no keys, so nobody may call", file)
    return ring


def _open_certificate(settings: Settings) -> Reloaded[Certificate] | None:
    cert_file, key_file = settings.tls.cert_file, settings.tls.key_file
    client_ca_file = settings.tls.client_ca_file
    if cert_file is None or key_file is None:  # the settings have both or neither
        return None
    # Imported only here: what it reads certificates with takes 0.04 s.
    from clipsearch_server.identity.certificate_file import read_certificate

    files = [file for file in (cert_file, key_file, client_ca_file) if file is not None]
    return Reloaded(
        "certificate", files, partial(read_certificate, cert_file, key_file, client_ca_file)
    )


async def _follow(
    ring: Reloaded[KeyRing] | None,
    certificate: Reloaded[Certificate] | None,
    authenticator: Authenticator | None,
) -> None:
    """Looks after changed files, refused callers and the certificate's end."""
    warned = logged = datetime.min.replace(tzinfo=UTC)
    while True:
        try:
            for followed in (ring, certificate):
                if followed is not None:
                    await asyncio.to_thread(followed.check)
            now = datetime.now(UTC)
            if certificate is not None:
                expires = certificate.value.expires
                metrics.TLS_CERTIFICATE_EXPIRY.labels(certificate="server").set(expires.timestamp())
                if now - warned >= _WARN_OF_EXPIRY_EVERY:
                    warn_of_expiry(certificate.value, now)
                    warned = now
            is_due = now - logged >= _LOG_REFUSED_EVERY
            if authenticator is not None and is_due and authenticator.log_refused():
                logged = now
        except Exception:  # without this loop, a revoked key would be good for ever
            logger.exception("looking after keys and certificates failed; it goes on")
        await asyncio.sleep(_CHECK_EVERY_S)
