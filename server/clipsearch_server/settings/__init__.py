"""Every setting of the server, in one typed tree.

A setting's name carries its unit. `configuration` reads the tree from flags, environment and file,
and shows each description in ``--help``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from clipsearch_server.setting_values import CollectionName, Folders, HostAndPort
from clipsearch_server.settings.encoders import EncoderSettings, TritonSettings
from clipsearch_server.settings.group import Group
from clipsearch_server.settings.images import FetchSettings, ImageSettings
from clipsearch_server.settings.indexes import IndexSettings, QdrantSettings
from clipsearch_server.settings.service import AdmissionSettings, AuthSettings, TlsSettings
from clipsearch_server.settings.sight import MetricsSettings, TracingSettings

__all__ = ["DEMO_MODEL_DIR", "Group", "ImageSettings", "Settings"]

DEMO_MODEL_DIR = Path(__file__).parents[1] / "demo_model"


class Settings(Group):
    """The whole tree."""

    address: HostAndPort = Field(
        default="127.0.0.1:50051",
        description="host:port to listen on; port 0 takes a free one",
    )
    insecure: bool = Field(
        default=False,
        description="serve other machines too without keys or without TLS: something before the "
        "server keeps strangers out",
    )
    workers: int = Field(
        default=1,
        ge=0,
        le=256,
        description="processes that serve on the port, with Triton and Qdrant only; 0: one for "
        "each core, which a container's CPU limit does not lower",
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
    drain_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="seconds after SIGTERM in which the server says that it is not serving and "
        "still takes calls, for load balancers to notice",
    )
    grace_s: float = Field(
        default=10.0,
        ge=0,
        description="seconds that calls may go on for after SIGTERM and drain_delay_s",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least severe messages that are logged"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="text for people, or an object a line for machines"
    )
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    admission: AdmissionSettings = AdmissionSettings()
    fetch: FetchSettings = FetchSettings()
    image: ImageSettings = ImageSettings()
    encoder: EncoderSettings = EncoderSettings()
    triton: TritonSettings = TritonSettings()
    index: IndexSettings = IndexSettings()
    qdrant: QdrantSettings = QdrantSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _says_what_clients_may(self) -> Self:
        if self.tls.client_ca_file is not None and self.auth.keys_file is None:
            raise ValueError(
                "tls.client_ca_file says who may connect, and auth.keys_file what each of them may "
                "do: set both (docs/security.md)"
            )
        return self

    @model_validator(mode="after")
    def _lets_several_processes_serve(self) -> Self:
        if self.workers == 1:
            return self
        if self.index.backend == "edge":
            raise ValueError(
                f"workers={self.workers}: the folder of an embedded index belongs to one process; "
                "use --index-backend qdrant and --encoder-backend triton, or --workers 1"
            )
        if self.encoder.backend == "onnxruntime":
            raise ValueError(
                f"workers={self.workers}: each process would load the model for itself, and one "
                "uses every core already; use --encoder-backend triton, or --workers 1"
            )
        if sys.platform != "linux":
            raise ValueError(
                f"workers={self.workers}: only Linux shares the connections of a port among "
                "processes; use --workers 1"
            )
        return self
