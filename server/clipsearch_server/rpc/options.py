"""What all methods of the service share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.budget import Budget

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """What the service tells its callers, and the bounds it sets them."""

    default_limit: int
    near_duplicate_similarity: float  # of images that are nearly the same: a cosine
    max_in_flight_per_stream: int
    memory: Budget  # bytes of the images that are being added
    info: pb.GetServerInfoResponse  # but for models, collections and what runs them
