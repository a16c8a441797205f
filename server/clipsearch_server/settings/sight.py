"""What can be seen of the server: metrics and traces."""

from __future__ import annotations

from pydantic import Field

from clipsearch_server.setting_values import CollectorUrlOrNone, HostAndPortOrNone
from clipsearch_server.settings.group import Group


class MetricsSettings(Group):
    """What Prometheus scrapes; docs/observability.md lists it."""

    address: HostAndPortOrNone = Field(
        default="",
        description="host:port that serves /metrics over plain HTTP to whoever asks; port 0 takes "
        "a free one",
    )


class TracingSettings(Group):
    """Where the spans of calls go; needs `pip install "./server[otel]"`."""

    endpoint: CollectorUrlOrNone = Field(
        default="",
        repr=False,  # a password in it is refused, and not to be shown when it is
        description="http://host:port or https://host:port of an OTLP collector, over gRPC",
    )
    sample_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of calls that are traced, of those whose callers do not say",
    )
