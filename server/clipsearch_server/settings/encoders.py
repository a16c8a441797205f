"""What embeds texts and images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FilePath

from clipsearch_server.setting_values import HostAndPort
from clipsearch_server.settings.group import Group


class EncoderSettings(Group):
    """How texts and images are embedded."""

    backend: Literal["onnxruntime", "triton"] = Field(
        default="onnxruntime",
        description="what runs the model: ONNX Runtime in this process, or a Triton server",
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto",
        description="onnxruntime: where it runs; auto: the best there is; tensorrt: texts on CUDA",
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
        description="onnxruntime: threads of an encoder; 0: one for each core, which a "
        "container's CPU limit does not lower",
    )
    max_batch: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="texts of concurrent requests embedded together; images: half, on a CPU",
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
