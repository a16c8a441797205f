"""Collections to and from messages, and the checks that need only the request."""

from __future__ import annotations

from collections.abc import Sequence

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.catalog import MAX_INDEXED_FIELDS, CollectionInfo
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.ports import CollectionSpec, FieldType, IndexedField
from clipsearch_server.rpc.filters import indexed_field_of
from clipsearch_server.setting_values import is_collection_name

_FIELD_TYPES = {
    FieldType.KEYWORD: pb.FIELD_TYPE_KEYWORD,
    FieldType.NUMBER: pb.FIELD_TYPE_NUMBER,
    FieldType.BOOL: pb.FIELD_TYPE_BOOL,
    FieldType.TIME: pb.FIELD_TYPE_TIME,
}


def new_name(value: str, field: str) -> str:
    """Checks the name of a collection or an alias that is to be."""
    if not is_collection_name(value):
        raise InvalidRequest(
            field, "must be 1 to 64 letters, digits, _, - and ., the first a letter or digit"
        )
    return value


def given_name(value: str, field: str) -> str:
    """Checks that a name is given, whatever bears it."""
    if not value:
        raise InvalidRequest(field, "is empty; name one")
    return value


def indexed_fields_of(messages: Sequence[pb.IndexedField], path: str) -> list[IndexedField]:
    if len(messages) > MAX_INDEXED_FIELDS:
        raise InvalidRequest(
            path, f"are {len(messages)} fields; at most {MAX_INDEXED_FIELDS} are indexed"
        )
    return [indexed_field_of(message, f"{path}[{place}]") for place, message in enumerate(messages)]


def collection(info: CollectionInfo) -> pb.Collection:
    """Writes a collection as callers see it."""
    spec = info.spec
    return pb.Collection(
        name=info.name,
        image_count=info.image_count,
        is_default=info.is_default,
        aliases=info.aliases,
        model_id=spec.model_id,
        model_fingerprint=spec.fingerprint,
        embedding_dim=spec.embedding_dim,
        model_loaded=info.model_loaded,
        prompt_templates=pb.PromptTemplates(templates=spec.prompt_templates),
        indexed_fields=[
            pb.IndexedField(field=it.field, type=_FIELD_TYPES[it.type])
            for it in spec.indexed_fields
        ],
    )


def model_of(spec: CollectionSpec) -> pb.Model:
    """What is known of a model that is not loaded, from a collection that it filled."""
    return pb.Model(
        id=spec.model_id, fingerprint=spec.fingerprint, embedding_dim=spec.embedding_dim
    )
