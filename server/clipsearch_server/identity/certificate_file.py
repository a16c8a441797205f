"""Reads the server's certificate and key, and refuses what gRPC could not serve with."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from clipsearch_server.errors import StartupError
from clipsearch_server.identity.tls import Certificate

logger = logging.getLogger(__name__)


def read_certificate(cert_file: Path, key_file: Path, client_ca_file: Path | None) -> Certificate:
    """Reads a chain and its key (PEM), and the authority that clients' certificates must be of.

    Blocks. Raises StartupError naming the file: gRPC would only refuse every connection.
    """
    chain = _read(cert_file, "tls.cert_file")
    certificate = _parse_certificates(chain, cert_file, "tls.cert_file")[0]
    key = _read(key_file, "tls.key_file")
    try:
        public_key = load_pem_private_key(key, password=None).public_key()
        is_its_key = public_key == certificate.public_key()
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise StartupError(f"{key_file}: tls.key_file is no PEM key without a password") from error
    except UnsupportedAlgorithm as error:
        raise StartupError(
            f"{key_file}: tls.key_file, or the certificate in {cert_file}, is of a kind that is "
            "not known; use an RSA or ECDSA key"
        ) from error
    if not is_its_key:
        raise StartupError(f"{key_file}: is not the key of the certificate in {cert_file}")
    if not _is_verified_by_clients(certificate):
        raise StartupError(
            f"{cert_file}: its key is of a kind whose signatures gRPC's clients do not verify; use "
            "RSA, or ECDSA on P-256 or P-384"
        )
    authority = None
    if client_ca_file is not None:
        authority = _read(client_ca_file, "tls.client_ca_file")
        _parse_certificates(authority, client_ca_file, "tls.client_ca_file")
    # Last, so that a version that fails above, and is read again and again, does not repeat it.
    if _is_readable_by_all(key_file):
        logger.warning("%s: every user of this machine can read the private key", key_file)
    return Certificate(
        grpc.ssl_server_certificate_configuration([(key, chain)], authority),
        certificate.not_valid_after_utc,
    )


def _is_verified_by_clients(certificate: x509.Certificate) -> bool:
    """Whether gRPC's clients verify what the certificate's key signs: their TLS is BoringSSL, which
    by default offers neither Ed25519 nor P-521."""
    key = certificate.public_key()
    return isinstance(key, RSAPublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and key.curve.name in {"secp256r1", "secp384r1"}
    )


def _read(file: Path, setting: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}; {setting} names a PEM file") from error


def _is_readable_by_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:  # replaced since it was read, and looked at again in a moment
        return False


def _parse_certificates(content: bytes, file: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise StartupError(f"{file}: {setting} is no PEM file of certificates") from error
