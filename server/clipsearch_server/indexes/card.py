"""What a collection remembers of the model that fills it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from clipsearch_server.errors import ModelMismatch

FORMAT_VERSION = 1
CREATED_BY = f"clipsearch-server {version('clipsearch-server')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionCard:
    """What a collection is made of."""

    format_version: int = FORMAT_VERSION
    model_id: str
    fingerprint: str
    embedding_dim: int
    created_by: str = CREATED_BY  # the version of the server that made the collection

    def require(self, stored: CollectionCard, where: str, *, way_out: str) -> None:
        """Raises ModelMismatch unless a stored collection's embeddings are of this card's model."""
        if (stored.fingerprint, stored.embedding_dim) != (self.fingerprint, self.embedding_dim):
            raise ModelMismatch(
                f"{where}: was filled by the model {stored.model_id} (fingerprint "
                f"{stored.fingerprint}, {stored.embedding_dim} dimensions), and this server runs "
                f"{self.model_id} (fingerprint {self.fingerprint}, {self.embedding_dim} "
                f"dimensions); start it with that model, {way_out}",
                collection_fingerprint=stored.fingerprint,
                model_fingerprint=self.fingerprint,
            )
