"""`python -m clipsearch_server.check`: asks a server whether it serves.

For the health check of a container: its image has this interpreter and no other tool. The settings
are the server's own, from the environment and the file that CLIPSEARCH_CONFIG names, so that both
agree on the address and on TLS. Flags that the server was started with are not seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from clipsearch_server.configuration import load_settings
from clipsearch_server.errors import StartupError
from clipsearch_server.settings import Settings

_TIMEOUT_S = 3.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if the server serves, and 1, with one line on stderr, if not."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings([])
        address: str = arguments.address or _own_address(settings)
        with _channel(address, settings, arguments.cert, arguments.key) as channel:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=_TIMEOUT_S)
    except StartupError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except grpc.RpcError as error:
        sys.stderr.write(f"{address}: {error.code().name}\n")
        return 1
    if answer.status != HealthCheckResponse.SERVING:
        status = HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{address}: {status}; the server's log says which neighbour is missing\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clipsearch_server.check",
        description="Asks a server, by grpc.health.v1, whether it and what it needs serve.",
    )
    parser.add_argument(
        "address", metavar="HOST:PORT", nargs="?", help="[CLIPSEARCH_ADDRESS, on this machine]"
    )
    parser.add_argument(
        "--cert",
        type=Path,
        metavar="FILE",
        help="certificate to show to a server with mutual TLS (PEM) [CLIPSEARCH_TLS_CERT_FILE]",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="its private key (PEM) [CLIPSEARCH_TLS_KEY_FILE]"
    )
    return parser


def _own_address(settings: Settings) -> str:
    host, _, port = settings.address.rpartition(":")
    return f"{_ANY_ADDRESS.get(host, host)}:{port}"


def _channel(
    address: str, settings: Settings, cert_file: Path | None, key_file: Path | None
) -> grpc.Channel:
    """Returns a channel that trusts the server's own certificate, whoever signed it and whatever
    name it is for."""
    # gRPC obeys http_proxy even for this machine, where a proxy leads nowhere.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if settings.tls.cert_file is None:
        return grpc.insecure_channel(address, options)
    try:
        chain = settings.tls.cert_file.read_bytes()
        options.append(("grpc.ssl_target_name_override", _a_name_of(chain)))
        key = chain_shown = None
        if settings.tls.client_ca_file is not None:
            key = (key_file or settings.tls.key_file or Path()).read_bytes()
            chain_shown = (cert_file or settings.tls.cert_file).read_bytes()
    except OSError as error:
        raise StartupError(f"{error.filename}: {error.strerror}") from error
    credentials = grpc.ssl_channel_credentials(chain, key, chain_shown)
    return grpc.secure_channel(address, credentials, options)


def _a_name_of(chain: bytes) -> str:
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise StartupError("tls.cert_file has no certificate with a subjectAltName") from error
    hosts = [*map(str, names.get_values_for_type(x509.IPAddress))]
    hosts += names.get_values_for_type(x509.DNSName)
    return hosts[-1].replace("*", "any") if hosts else ""


if __name__ == "__main__":
    sys.exit(main())
