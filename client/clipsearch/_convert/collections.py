"""What a server is, and its collections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clipsearch._models import Collection, FieldType, IndexedField, Limits, Model, ServerInfo
from clipsearch.v1 import image_search_pb2 as pb

_FIELD_TYPES = {
    pb.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOL: FieldType.BOOL,
    pb.FIELD_TYPE_TIME: FieldType.TIME,
}
_FIELD_TYPE_VALUES = {type_: value for value, type_ in _FIELD_TYPES.items()}


def indexed_fields(fields: Iterable[IndexedField]) -> Iterator[pb.IndexedField]:
    for it in fields:
        type_ = _FIELD_TYPE_VALUES.get(it.type, pb.FIELD_TYPE_UNSPECIFIED)
        yield pb.IndexedField(field=it.field, type=type_)


def collection(message: pb.Collection) -> Collection:
    return Collection(
        name=message.name,
        image_count=message.image_count,
        is_default=message.is_default,
        aliases=tuple(message.aliases),
        model_id=message.model_id,
        model_fingerprint=message.model_fingerprint,
        embedding_dim=message.embedding_dim,
        model_loaded=message.model_loaded,
        prompt_templates=tuple(message.prompt_templates.templates),
        indexed_fields=tuple(
            IndexedField(it.field, _FIELD_TYPES.get(it.type, FieldType.UNSPECIFIED))
            for it in message.indexed_fields
        ),
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    limits = message.limits
    return ServerInfo(
        version=message.version,
        model=_model(message.model),
        encoder=message.encoder,
        index=message.index,
        collections=tuple(map(collection, message.collections)),
        limits=Limits(
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            default_limit=limits.default_limit,
            max_limit=limits.max_limit,
            fetch_enabled=limits.fetch_enabled,
        ),
        models=tuple(map(_model, message.models)),
    )


def _model(message: pb.Model) -> Model:
    return Model(
        id=message.id,
        fingerprint=message.fingerprint,
        precision=message.precision,
        embedding_dim=message.embedding_dim,
        image_size_px=message.image_size_px,
        max_tokens=message.max_tokens,
    )
