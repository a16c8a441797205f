"""Baseline: a server that does nothing but answer, on the same gRPC."""

from __future__ import annotations

import asyncio
import sys

import grpc

METHOD = "/speed.Empty/Echo"


async def serve(answer_bytes: int) -> None:
    """Answers any bytes with so many, until it is killed."""
    answer = bytes(answer_bytes)

    async def echo(request: bytes, context: object) -> bytes:
        return answer

    service, _, method = METHOD[1:].partition("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {method: grpc.unary_unary_rpc_method_handler(echo)}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stderr.write(f"serving address=127.0.0.1:{port}\n")
    sys.stderr.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
