"""The models that this server runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsearch_server.errors import InvalidRequest, ModelMismatch
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import CollectionSpec, Encoder, ImageDecoder
from clipsearch_server.text import Tokenizer

_MIN_FINGERPRINT_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """All that turns texts and images into a model's embeddings."""

    card: ModelCard
    tokenizer: Tokenizer
    encoder: Encoder
    decoder: ImageDecoder  # to the model's size; models of one size may share it


class LoadedModels:
    """All models of the server, at least one; no two have one fingerprint."""

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        self._models = tuple(models)

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(self._models)

    def find(self, spec: CollectionSpec) -> LoadedModel | None:
        """Returns the model that fills a collection, if it is loaded."""
        wanted = (spec.fingerprint, spec.embedding_dim)
        for model in self._models:
            if (model.card.fingerprint, model.card.embedding_dim) == wanted:
                return model
        return None

    def require(self, spec: CollectionSpec, collection: str) -> LoadedModel:
        """Returns the model that fills a collection. Raises ModelMismatch if it is not loaded."""
        model = self.find(spec)
        if model is not None:
            return model
        loaded = ", ".join(
            f"{card.model_id} (fingerprint {card.fingerprint}, {card.embedding_dim} dimensions)"
            for card in (model.card for model in self._models)
        )
        raise ModelMismatch(
            f"collection {collection}: was filled by the model {spec.model_id} (fingerprint "
            f"{spec.fingerprint}, {spec.embedding_dim} dimensions), and this server runs {loaded}; "
            "start it with that model's folder as model_dir or among extra_model_dirs, or use "
            "another collection",
            collection_fingerprint=spec.fingerprint,
            model_fingerprint=",".join(model.card.fingerprint for model in self._models),
        )

    def choose(self, wanted: str) -> LoadedModel:
        """Returns the model of a fingerprint, of 8 or more digits that one starts with, or of an
        id. Raises InvalidRequest (field ``model``) if there is none, or more than one."""
        may_start = len(wanted) >= _MIN_FINGERPRINT_DIGITS
        chosen = [
            model
            for model in self._models
            if model.card.model_id == wanted
            or (may_start and model.card.fingerprint.startswith(wanted.lower()))
        ]
        if len(chosen) == 1:
            return chosen[0]
        known = ", ".join(
            f"{model.card.model_id} ({model.card.fingerprint[:12]})" for model in self._models
        )
        raise InvalidRequest(
            "model",
            f"{'is more than one' if chosen else 'is none'} of the server's models: {known}; give "
            f"a fingerprint, {_MIN_FINGERPRINT_DIGITS} digits of it or more, or an id",
        )
