"""Where images may come from, and which are taken."""

from __future__ import annotations

from pydantic import Field

from clipsearch_server.fetch_policy import FetchPolicy, port_range
from clipsearch_server.setting_values import Hosts, Networks, Ports, ProxyUrl
from clipsearch_server.settings.group import Group


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
        description="processes that decode, each an image at a time; 0: one for each core, "
        "which a container's CPU limit does not lower",
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
