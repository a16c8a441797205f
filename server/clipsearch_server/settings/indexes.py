"""What stores the embeddings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FilePath, SecretStr

from clipsearch_server.setting_values import GrpcUrl, HeaderValue
from clipsearch_server.settings.group import Group


class IndexSettings(Group):
    """How the embeddings are stored."""

    backend: Literal["edge", "qdrant"] = Field(
        default="edge",
        description="edge: embedded, in data_dir; qdrant: a server or cluster, see below",
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="seconds that one index operation may take"
    )
    max_in_flight: int = Field(
        default=1024,
        ge=1,
        description="operations of a collection's index under way at a time; more are refused",
    )
    optimize_after_points: int = Field(
        default=20_000,
        ge=1000,
        description="images added or replaced since the last time after which edge builds its "
        "search graph anew; qdrant decides itself",
    )
    hnsw_ef: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="candidates that a search of the graph keeps, at least as many as it is asked "
        "for, which is 128 or more; with more it misses less and takes longer",
    )


class QdrantSettings(Group):
    """The Qdrant server or cluster, if index.backend is qdrant; from shards on, of new collections.

    A collection that exists stays as it is.
    """

    url: GrpcUrl = Field(
        default="http://127.0.0.1:6334",
        repr=False,  # one that is refused may be so for the password in it
        description="http://host:port of its gRPC interface, https:// for TLS",
    )
    api_key: HeaderValue = Field(
        default=SecretStr(""),
        description="key that it asks for; better not as a flag, which other users can see",
    )
    ca_file: FilePath | None = Field(
        default=None, description="root certificates (PEM) to trust instead of the system's"
    )
    shards: int = Field(default=1, ge=1, description="shards, which nodes share")
    replication_factor: int = Field(default=1, ge=1, description="copies of each shard")
    write_consistency_factor: int = Field(
        default=1, ge=1, description="copies that must have a write for it to succeed"
    )
    quantization: Literal["none", "turbo4", "int8"] = Field(
        default="none",
        description="vectors of 4 or 8 bits that are searched first; the originals are kept, and "
        "score what is found",
    )
    on_disk: bool = Field(
        default=False, description="read vectors and search graph from disk, not from memory"
    )
    hnsw_m: int = Field(default=16, ge=4, le=10_000, description="links of a point in the graph")
    hnsw_ef_construct: int = Field(
        default=100, ge=4, description="neighbours looked at to build the graph"
    )
