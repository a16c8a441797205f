"""What can be counted of the server, for Prometheus: every metric, in one place.

Each is a value of the process, as prometheus_client has them, so that whoever knows a fact notes
it where it happens. `docs/observability.md` explains each. Labels are ours, never a caller's text:
their values are bounded by the code, by the settings, or by the operator's list of keys.

The gauges say how those of several processes are put together (``multiprocess_mode``).
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

# When a counter began is nothing that a query here asks for, and doubles what is scraped.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # says no types

_CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_BUCKETS_S = (0.0005, *_CALL_BUCKETS_S)
_LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Calls: the names and labels of go-grpc-prometheus, which dashboards of others know.
_METHOD = ("grpc_type", "grpc_service", "grpc_method")

STARTED = Counter("grpc_server_started_total", "Calls that came in", _METHOD)
HANDLED = Counter(
    "grpc_server_handled_total", "Calls that ended, by their status", (*_METHOD, "grpc_code")
)
HANDLING_SECONDS = Histogram(
    "grpc_server_handling_seconds", "Duration of calls", _METHOD, buckets=_CALL_BUCKETS_S
)

IN_FLIGHT = Gauge("clipsearch_in_flight", "Calls under way", ("work",), multiprocess_mode="livesum")
REFUSED = Counter(
    "clipsearch_refused_total",
    "Calls turned away: no room, here or in what they need, no quota, no key, no right",
    ("work", "reason"),
)
CALLER_CALLS = Counter(
    "clipsearch_caller_calls_total",
    "Calls that ended, by the name of the caller's key",
    ("caller", "grpc_code"),
)
ERRORS = Counter(
    "clipsearch_errors_total",
    "Errors answered, those of single items of a stream too, by their reason",
    ("reason",),
)
INTERNAL_ERRORS = Counter(
    "clipsearch_internal_errors_total", "Errors that are our fault, by their reason", ("reason",)
)

# The work.
STAGE_SECONDS = Histogram(
    "clipsearch_stage_seconds",
    "Duration of a call's stages, with what each waited for",
    ("stage",),
    buckets=_STAGE_BUCKETS_S,
)
IMAGES_ADDED = Counter(
    "clipsearch_images_added_total", "Images that were added, by what that changed", ("outcome",)
)
BATCH_ROWS = Histogram(
    "clipsearch_batch_rows",
    "Texts or images that the encoder took at once",
    ("tower",),
    buckets=_BATCH_BUCKETS_ROWS,
)
QUEUE_ROWS = Gauge(
    "clipsearch_queue_rows", "What waits for its turn", ("queue",), multiprocess_mode="livesum"
)
CACHE_REQUESTS = Counter(
    "clipsearch_cache_requests_total",
    "What was looked for among what was worked out of late, and whether it was there",
    ("cache", "result"),
)
DECODE_WORKER_RESTARTS = Counter(
    "clipsearch_decode_worker_restarts_total",
    "Decoding processes that were lost or ended, by why",
    ("reason",),
)
INDEX_PROCESS_RESTARTS = Counter(
    "clipsearch_index_process_restarts_total", "Deaths of a process of the embedded index"
)
# Of the parent of several workers, which alone touches these: a metric with labels shows nothing of
# a process that does not.
WORKER_RESTARTS = Counter(
    "clipsearch_worker_restarts_total",
    "Times that a worker ended unasked, by its number",
    ("worker",),
)
WORKER_SERVING = Gauge(
    "clipsearch_worker_serving", "1 if a worker serves, 0 if it is being replaced", ("worker",)
)

# The state of things.
COLLECTION_IMAGES = "clipsearch_collection_images"  # counted when asked for: `metrics_endpoint`
EVENT_LOOP_LAG_SECONDS = Histogram(
    "clipsearch_event_loop_lag_seconds",
    "How much later than due the event loop came to a timer",
    buckets=_LAG_BUCKETS_S,
)
DEPENDENCY_SERVING = Gauge(
    "clipsearch_dependency_serving",
    "1 if the health service says SERVING of it, 0 if not",
    ("dependency",),
    multiprocess_mode="livemin",
)
TLS_CERTIFICATE_EXPIRY = Gauge(
    "clipsearch_tls_certificate_expiry_timestamp_seconds",
    "When a certificate of the server's expires, in seconds since 1970",
    ("certificate",),
    multiprocess_mode="livemin",
)
BUILD_INFO = Gauge(
    "clipsearch_build_info",
    "1, for what is in the labels",
    ("version", "encoder", "index", "model"),
    multiprocess_mode="livemax",
)
