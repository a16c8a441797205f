"""The gRPC server: what it serves, what stands before each call, and its limits."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import add_ImageSearchServiceServicer_to_server
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog
from clipsearch_server.errors import StartupError
from clipsearch_server.rpc import convert
from clipsearch_server.rpc.admission import Admission
from clipsearch_server.rpc.call_record import SERVICE_NAME
from clipsearch_server.rpc.drain import DrainInterceptor
from clipsearch_server.rpc.health import HealthReporter
from clipsearch_server.rpc.interceptors import Authenticate, CallInterceptor
from clipsearch_server.rpc.methods import Work
from clipsearch_server.rpc.options import ServiceOptions
from clipsearch_server.rpc.public_methods import PublicMethodsInterceptor
from clipsearch_server.rpc.servicer import ImageSearchServicer
from clipsearch_server.settings import Settings

# Room for the request around an image of the largest size.
_MESSAGE_OVERHEAD_BYTES = 2**20
_MAX_PENDING_CALLS = 16_000
# Of one connection; more wait at their caller's, so that nobody fills the queue of all.
_MAX_CALLS_PER_CONNECTION = 128


def server_version() -> str:
    """Returns the version of this package."""
    return importlib.metadata.version("clipsearch-server")


def open_server(
    settings: Settings,
    *,
    authenticate: Authenticate,
    listen: Callable[[grpc.aio.Server, str], int],
    catalog: Catalog,
    memory: Budget,
    health: HealthReporter,
    draining: DrainInterceptor,
    shares_port: bool,
) -> tuple[grpc.aio.Server, str]:
    """Returns a server that is to be started, and its host:port, with the port that was taken.

    ``listen`` has it listen, and returns the port. Raises StartupError if the address is taken, or
    none of this machine.
    """
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(
                authenticate=authenticate,
                admission=Admission(
                    {
                        Work.QUERY: settings.admission.max_queries,
                        Work.INGEST: settings.admission.max_ingest,
                        Work.BULK: settings.admission.max_bulk,
                    }
                ),
                default_deadline_s=settings.default_deadline_s,
                stream_idle_s=settings.admission.stream_idle_s,
            ),
            PublicMethodsInterceptor(),
            draining,
        ],
        options=[
            ("grpc.max_receive_message_length", settings.image.max_bytes + _MESSAGE_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            # gRPC core would cancel calls from 1,000 waiting on, unseen by us; we refuse them
            # ourselves.
            ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
            ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
            # Off: it counts calls until they are forgotten here, and refuses, as UNAVAILABLE, those
            # that a client sends as soon as it is answered: 9 of 10, of 10,000 over one connection.
            # Against floods of resets (CVE-2023-44487) stand the bounds above: 100,000 took 295 MB,
            # and held up another caller for 0.25 s at most.
            ("grpc.http.overload_protection", 0),
            # A peer that vanished without a word holds its places for no longer than this.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # A client may ask as often whether we are there; gRPC hangs up on who asks more than
            # once in five minutes, which ours does exactly.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 60_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Who connects, and says nothing, holds a descriptor for no longer.
            ("grpc.server_handshake_timeout_ms", 10_000),
            # Two servers on one port would share its calls without anybody noticing.
            ("grpc.so_reuseport", int(shares_port)),
        ],
    )
    options = ServiceOptions(
        default_limit=settings.default_limit,
        near_duplicate_similarity=settings.near_duplicate_similarity,
        max_in_flight_per_stream=settings.max_in_flight_per_stream,
        memory=memory,
        info=_info(settings),
    )
    add_ImageSearchServiceServicer_to_server(ImageSearchServicer(catalog, options), server)
    add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection(
        (SERVICE_NAME, health_name, reflection.SERVICE_NAME), server
    )
    try:
        port = listen(server, settings.address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {settings.address}: it is taken, or not an address of this machine; "
            "choose another with --address"
        ) from error
    return server, f"{settings.address.rpartition(':')[0]}:{port}"


def _info(settings: Settings) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=server_version(),
        limits=pb.Limits(
            max_image_bytes=settings.image.max_bytes,
            max_image_pixels=settings.image.max_pixels,
            default_limit=settings.default_limit,
            max_limit=convert.MAX_LIMIT,
            fetch_enabled=settings.fetch.enabled,
        ),
    )
