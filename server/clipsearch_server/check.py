"""`python -m clipsearch_server.check HOST:PORT`: asks a server whether it serves.

For the health check of a container: its image has this interpreter and no other tool.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

_TIMEOUT_S = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if the server serves, and 1, with one line on stderr, if not."""
    parser = argparse.ArgumentParser(
        prog="python -m clipsearch_server.check",
        description="Asks a server, by grpc.health.v1, whether it and what it needs serve.",
    )
    parser.add_argument(
        "address", metavar="HOST:PORT", nargs="?", default="127.0.0.1:50051", help="[%(default)s]"
    )
    address: str = parser.parse_args(argv).address
    # gRPC obeys http_proxy even for this machine, where a proxy leads nowhere.
    options = [("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        sys.stderr.write(f"{address}: {error.code().name}\n")
        return 1
    if answer.status != HealthCheckResponse.SERVING:
        status = HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{address}: {status}; the server's log says which neighbour is missing\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
