"""What a collection says of itself where it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

from clipsearch_server.ports import CollectionSpec, FieldType, IndexedField

CREATED_BY = f"clipsearch-server {version('clipsearch-server')}"

# The first format knows the model alone. A server that reads no other must not serve a collection
# with more, as it would drop the indexes when it builds the search graph anew; so only such a
# collection is of the second.
_FORMATS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionCard:
    """What a collection is made of, and the version of the server that made it."""

    spec: CollectionSpec
    created_by: str = CREATED_BY

    def to_values(self) -> dict[str, Any]:
        """Returns JSON values."""
        spec = self.spec
        values: dict[str, Any] = {
            "format_version": 1,
            "model_id": spec.model_id,
            "fingerprint": spec.fingerprint,
            "embedding_dim": spec.embedding_dim,
            "created_by": self.created_by,
        }
        if spec.prompt_templates or spec.indexed_fields:
            values["format_version"] = 2
            values["prompt_templates"] = list(spec.prompt_templates)
            values["indexed_fields"] = [
                {"field": it.field, "type": it.type.value} for it in spec.indexed_fields
            ]
        return values

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """Reads what ``to_values`` wrote. Raises ValueError, which says what is wrong with it."""
        try:
            left = dict(values)
            if (written := left.pop("format_version")) not in _FORMATS:
                raise ValueError(f"has format {written}, and this server reads 1 and 2")
            created_by = left.pop("created_by")
            templates = tuple(map(str, left.pop("prompt_templates", ())))
            fields = tuple(
                IndexedField(it["field"], FieldType(it["type"]))
                for it in left.pop("indexed_fields", ())
            )
            spec = CollectionSpec(prompt_templates=templates, indexed_fields=fields, **left)
        except (TypeError, KeyError) as error:
            raise ValueError(f"cannot be understood ({error})") from error
        return cls(spec=spec, created_by=created_by)
