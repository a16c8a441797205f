"""The server's certificate, and the authority of its clients', as gRPC takes them;
certificate_file.py reads them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import grpc

from clipsearch_server.identity.reloading import Reloaded

logger = logging.getLogger(__name__)

_WARN_BEFORE = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, checked, and until when it is valid."""

    configuration: grpc.ServerCertificateConfiguration
    expires: datetime


def server_credentials(
    certificate: Reloaded[Certificate], *, require_client_certificate: bool
) -> grpc.ServerCredentials:
    """Returns credentials whose new connections have the newest certificate."""
    current = certificate.value.configuration

    def newer() -> grpc.ServerCertificateConfiguration | None:
        # Asked before every handshake, in a thread of gRPC's: a comparison, no file is looked at.
        nonlocal current
        newest = certificate.value.configuration
        if newest is current:
            return None
        current = newest
        return newest

    # The stubs do not know that None, as gRPC documents, means that nothing has changed.
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", newer)
    return grpc.dynamic_ssl_server_credentials(current, fetcher, require_client_certificate)


def warn_of_expiry(certificate: Certificate, now: datetime) -> None:
    """Logs a warning if the certificate expires soon, or has."""
    left = certificate.expires - now
    if left < timedelta(0):
        logger.error("the TLS certificate has expired: clients refuse it; replace tls.cert_file")
    elif left < _WARN_BEFORE:
        logger.warning(
            "the TLS certificate expires in %d days, at %s; replace tls.cert_file",
            left.days,
            certificate.expires.astimezone(UTC).isoformat(),
        )
