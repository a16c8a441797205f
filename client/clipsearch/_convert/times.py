"""Times -> protobuf."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(time: datetime) -> Timestamp:
    """Raises ValueError if the time has no time zone: protobuf would take it for UTC."""
    if time.utcoffset() is None:
        raise ValueError(f"{time} has no time zone")
    message = Timestamp()
    message.FromDatetime(time)
    return message
