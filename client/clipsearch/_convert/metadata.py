"""Metadata <-> protobuf's Struct."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from clipsearch._models import JsonValue, Metadata


def fill_struct(struct: Struct, metadata: Metadata) -> None:
    struct.update({key: _plain(value) for key, value in metadata.items()})


def _plain(value: JsonValue) -> Any:
    """The dicts and lists that protobuf takes, for any mappings and sequences."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def metadata_of(struct: Struct) -> dict[str, JsonValue]:
    return {key: _json(value) for key, value in struct.fields.items()}


def _json(value: Value) -> JsonValue:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            is_negative_zero = number == 0 and math.copysign(1, number) < 0  # no int is
            return int(number) if number.is_integer() and not is_negative_zero else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return metadata_of(value.struct_value)
        case "list_value":
            return [_json(item) for item in value.list_value.values]
        case _:
            return None
