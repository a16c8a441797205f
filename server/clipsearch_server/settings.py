"""Every setting of the server, in one typed tree.

A setting's name carries its unit. `configuration` reads the tree from flags, environment and file,
and shows each description in ``--help``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr

from clipsearch_server.fetch_policy import FetchPolicy, port_range
from clipsearch_server.setting_values import (
    CollectionName,
    Folders,
    GrpcUrl,
    HeaderValue,
    HostAndPort,
    Hosts,
    Networks,
    Ports,
    ProxyUrl,
)

DEMO_MODEL_DIR = Path(__file__).parent / "demo_model"


class Group(BaseModel):
    """A node of the tree: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class FetchSettings(Group):
    """How images are fetched that are added by URL."""

    enabled: bool = Field(default=True, description="take images by URL at all")
    timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="seconds for one URL, redirects included"
    )
    max_redirects: int = Field(default=3, ge=0, le=20, description="redirects followed for one URL")
    allow_hosts: Hosts = Field(
        default=(),
        description="hosts to fetch from, such as images.example.com,*.example.com; none: any",
    )
    allow_cidrs: Networks = Field(
        default=(),
        description="networks to fetch from besides public addresses, such as 10.1.0.0/16; "
        "metadata services of clouds never",
    )
    ports: Ports = Field(
        default=("80", "443"),
        description="ports to fetch from, such as 443,8000-8099",
    )
    proxy: ProxyUrl = Field(
        default="",
        repr=False,  # it may hold a password
        description="http://host:port of a proxy that fetches everything; it then resolves names, "
        "and alone decides where they lead",
    )
    max_concurrent: int = Field(default=32, ge=1, description="URLs fetched at a time")
    max_concurrent_per_host: int = Field(
        default=4, ge=1, description="URLs fetched at a time from one host"
    )

    @property
    def policy(self) -> FetchPolicy:
        """What is allowed, for the fetcher."""
        return FetchPolicy(
            hosts=self.allow_hosts,
            networks=self.allow_cidrs,
            ports=tuple(map(port_range, self.ports)),
        )


class ImageSettings(Group):
    """Which images are taken."""

    max_bytes: int = Field(
        default=16 * 2**20, ge=1024, le=2**30, description="bytes of an encoded image at most"
    )
    max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="pixels of an image at most; beyond this it is not decoded",
    )
    decode_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="processes that decode, each an image at a time; 0: one for each core",
    )
    decode_memory_mib: int = Field(
        default=1024,
        ge=64,
        description="MiB of memory that decoding one image may take; raise it with max_pixels",
    )
    decode_cpu_s: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="seconds of processor time that decoding one image may take",
    )
    decode_max_waiting: int = Field(
        default=1024, ge=1, description="images that may wait to be decoded; more are refused"
    )


class EncoderSettings(Group):
    """How texts and images are embedded."""

    backend: Literal["onnxruntime", "triton"] = Field(
        default="onnxruntime",
        description="what runs the model: ONNX Runtime in this process, or a Triton server",
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto",
        description="onnxruntime: where it runs; auto: the best there is",
    )
    gpu_memory_mib: int = Field(
        default=4096,
        ge=256,
        description="onnxruntime: MiB of GPU memory that each of the two encoders may take",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="onnxruntime: threads of an encoder; 0: one for each core",
    )
    max_batch: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="texts or images of concurrent requests embedded together",
    )
    max_waiting: int = Field(
        default=1024,
        ge=1,
        description="texts or images that may wait for an encoder; more are refused",
    )


class TritonSettings(Group):
    """The Triton server, if encoder.backend is triton."""

    address: HostAndPort = Field(
        default="127.0.0.1:8001", description="host:port of its gRPC service"
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="seconds for one request; less if the call has less left",
    )
    max_in_flight: int = Field(
        default=8,
        ge=1,
        le=256,
        description="requests of each tower under way at a time; meanwhile others are batched",
    )
    tls: bool = Field(default=False, description="encrypt the connection")
    ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the root certificates to trust instead of the system's",
    )


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
        description="images added since the last time after which edge builds its search graph "
        "anew; qdrant decides itself",
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


class Settings(Group):
    """The whole tree."""

    address: HostAndPort = Field(
        default="127.0.0.1:50051",
        description="host:port to listen on; port 0 takes a free one",
    )
    data_dir: Path = Field(
        default=Path("~/.local/share/clipsearch"), description="folder that holds the collections"
    )
    model_dir: Path = Field(
        default=DEMO_MODEL_DIR,
        description="model folder, as `make export-models` writes it; default: the demo model",
    )
    extra_model_dirs: Folders = Field(
        default=(),
        description="folders of other models to run too, for the collections that they fill",
    )
    collection: CollectionName = Field(
        default="images",
        description="name of the default collection; an alias, which can be switched",
    )
    max_collections: int = Field(
        default=32, ge=1, le=1000, description="collections there may be; no more are created"
    )
    default_limit: int = Field(
        default=5, ge=1, le=1000, description="hits of a query that sets no limit of its own"
    )
    near_duplicate_similarity: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="cosine similarity from which on images are nearly the same, for queries that "
        "collapse these",
    )
    default_deadline_s: float = Field(
        30.0, gt=0, le=3600, description="seconds for a call that brings no deadline of its own"
    )
    max_in_flight: int = Field(
        default=1024, ge=1, description="calls served at a time; more are refused"
    )
    max_in_flight_per_stream: int = Field(
        default=128, ge=1, le=1024, description="images of one bulk stream worked on at a time"
    )
    max_in_flight_mib: int = Field(
        default=256, ge=1, description="MiB of encoded images worked on at a time; more wait"
    )
    duplicates: Literal["refuse", "link", "allow"] = Field(
        default="refuse",
        description="what becomes of an image whose content is stored under another id: refused, "
        "stored as a link to that image, or stored like any other",
    )
    grace_s: float = Field(
        default=10.0, ge=0, description="seconds that calls may go on for after SIGTERM"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severe messages that are logged"
    )
    fetch: FetchSettings = FetchSettings()
    image: ImageSettings = ImageSettings()
    encoder: EncoderSettings = EncoderSettings()
    triton: TritonSettings = TritonSettings()
    index: IndexSettings = IndexSettings()
    qdrant: QdrantSettings = QdrantSettings()
