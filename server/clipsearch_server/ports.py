"""What the engine needs from the world: five ports, and the data that crosses them.

An adapter implements one port, is built from plain values, and is an async context manager. All
methods are safe to call concurrently from one event loop and never block it. ``tests/contract``
holds every implementation to these docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from clipsearch_server.filters import Filter

TokenIds: TypeAlias = NDArray[np.int64]  # (n, t): one text a row, padded with the model's pad id
Pixels: TypeAlias = NDArray[np.uint8]  # (n, 3, h, w): upright RGB, reduced to the model's size
Embeddings: TypeAlias = NDArray[np.float32]  # (n, d): each row finite and of L2 norm 1
Embedding: TypeAlias = NDArray[np.float32]  # (d,), likewise
JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
Metadata: TypeAlias = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """What is known about an image: everything but its pixels and its embedding."""

    id: UUID
    url: str  # fetched from here; empty if added by content
    uri: str  # by which the picture can be seen; empty if unknown
    metadata: Metadata
    sha256: str  # of the encoded image, lower-case hexadecimal
    media_type: str  # "image/jpeg", ...
    width_px: int  # upright
    height_px: int
    size_bytes: int  # of the encoded image
    create_time: datetime  # aware, UTC, whole microseconds
    update_time: datetime
    duplicate_of: UUID | None = None  # if linked: it had the same content when this was stored


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the vision encoder takes it, and what its content says about it."""

    pixels: NDArray[np.uint8]  # (3, size_px, size_px): RGB, upright
    media_type: str  # "image/jpeg", "image/png", "image/webp" or "image/gif"
    width_px: int  # of the whole image, upright
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NearestQuery:
    """A search for the images nearest to an embedding."""

    embedding: Embedding
    limit: int  # hits at most
    first: int | None = None  # so many of them are returned, so that the rest costs little
    score_threshold: float | None = None  # an image that scores less is no hit
    filter: Filter | None = None  # an image that does not pass is no hit
    exclude: tuple[UUID, ...] = ()  # no hits either
    exact: bool = False  # go through all images, so that none is missed


@dataclass(frozen=True, slots=True)
class ScoredId:
    """The id of an image found, with the cosine similarity of its embedding and the query's: -1 to
    1, a float32. Of a query for the ``first`` hits, an index may bring the image along."""

    id: UUID
    score: float
    image: StoredImage | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ImagePage:
    """Images ordered by id, and the id from which the next page starts (None: there is none)."""

    images: Sequence[StoredImage]
    next_id: UUID | None


@dataclass(frozen=True, slots=True)
class EmbeddedPage:
    """Images ordered by id with their embeddings, and the id from which the next page starts
    (None: there is none)."""

    images: Sequence[StoredImage]
    embeddings: Embeddings  # (len(images), d)
    next_id: UUID | None


class Encoder(Protocol):
    """Embeds texts and images into one space.

    Raises EncoderUnavailable if what runs the model cannot be reached, ModelOutputInvalid if it
    answers with anything but unit vectors, Overloaded if too much waits, DeadlineExceeded if it is
    too slow.
    """

    @property
    def description(self) -> str:
        """What runs the model, with its version: for people."""
        ...

    async def encode_text(self, token_ids: TokenIds) -> Embeddings:
        """Embeds n >= 1 tokenised texts."""
        ...

    async def encode_image(self, pixels: Pixels) -> Embeddings:
        """Embeds n >= 1 images."""
        ...

    async def health(self) -> None:
        """Returns if the encoder can work now; raises EncoderUnavailable if not."""
        ...


class FieldType(Enum):
    """The type of the values of a field that has an index."""

    KEYWORD = "keyword"  # strings
    NUMBER = "number"
    BOOL = "bool"
    TIME = "time"  # RFC 3339


@dataclass(frozen=True, slots=True)
class IndexedField:
    """A field of the metadata that has an index, so that filters on it are fast."""

    field: str  # "metadata." and a path, as in `filters`
    type: FieldType


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """What a collection is made of. The model never changes."""

    model_id: str
    fingerprint: str  # of the model whose embeddings it holds
    embedding_dim: int
    prompt_templates: tuple[str, ...] = ()  # none: texts are embedded as they are
    indexed_fields: tuple[IndexedField, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundCollection:
    """A collection under its own name, whatever name it was asked for by."""

    name: str
    spec: CollectionSpec


class IndexStore(Protocol):
    """Named collections, each an ImageIndex, and other names for them.

    A name is a collection's or an alias, never both. There is a default name, given to the adapter
    with the spec of its collection: where nothing bears it yet, the adapter makes the collection
    ``<name>-1`` and the alias. Raises, besides what is said, what ImageIndex does. Others may
    change what a remote store holds at any time.
    """

    @property
    def description(self) -> str:
        """What stores the embeddings, with its version: for people."""
        ...

    async def find(self, name: str, *, anew: bool = False) -> FoundCollection:
        """Returns the collection that has a name or that an alias stands for; a remote store, what
        was so at most a second ago, or is so, if asked anew. Raises CollectionNotFound; of the
        default name, which never goes by our doing, IndexUnavailable."""
        ...

    async def collections(self) -> Mapping[str, CollectionSpec]:
        """Returns all collections that this service made, by name, but for those that cannot be
        read."""
        ...

    async def aliases(self) -> Mapping[str, str]:
        """Returns the collection that each alias stands for."""
        ...

    async def open(self, name: str) -> ImageIndex:
        """Returns the index of a collection; the same one each time, until it is deleted or the
        store is closed, which closes it. Raises CollectionNotFound, IndexUnavailable if it cannot
        be opened."""
        ...

    async def create(self, name: str, spec: CollectionSpec) -> None:
        """Creates an empty collection. Raises CollectionExists if a collection or an alias has the
        name."""
        ...

    async def update(self, name: str, spec: CollectionSpec) -> None:
        """Changes a collection's prompt templates, and adds indexes on fields that have none;
        returns when these are complete. Raises CollectionNotFound."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a collection and what is in it, once the calls of its index that are under way
        are through. Raises CollectionNotFound, CollectionInUse if an alias stands for it."""
        ...

    async def set_alias(self, alias: str, collection: str) -> None:
        """Lets an alias stand for a collection, in place of the one before, in one step that is
        durable when this returns. Raises CollectionNotFound, CollectionExists if a collection has
        the alias's name."""
        ...

    async def delete_alias(self, alias: str) -> None:
        """Removes an alias. Raises CollectionNotFound if there is none."""
        ...


# No two are equal that stand for different contents, of one index or of two.
Revision: TypeAlias = tuple[int, ...]


class ImageIndex(Protocol):
    """One collection of images with their embeddings.

    Raises IndexUnavailable if the index cannot be reached, StorageFull if it cannot write for want
    of space, DeadlineExceeded if it is too slow; of a write whose outcome is not known,
    OutcomeUnknown. One that others can reach raises ModelMismatch if they have put another model's
    collection there.
    """

    @property
    def description(self) -> str:
        """What stores the embeddings, with its version: for people."""
        ...

    @property
    def revision(self) -> Revision | None:
        """Stands for what is stored: it is another one when a change is acknowledged, and whenever
        else something may have changed. None while a change is under way, and of an index that
        others change too."""
        ...

    async def upsert(self, images: Sequence[StoredImage], embeddings: Embeddings) -> None:
        """Stores images under their ids, replacing what is there. Returns when they are durable: a
        crash of any process right after does not lose them. Raises ValueError if the embeddings are
        not (len(images), d) or not finite."""
        ...

    async def search(self, queries: Sequence[NearestQuery]) -> list[list[ScoredId]]:
        """Answers n >= 1 queries together, which is cheaper than one by one: the hits of each, best
        first, of equal scores the lower id. Raises ValueError if an embedding is not (d,) or not
        finite."""
        ...

    async def get_embeddings(self, ids: Sequence[UUID]) -> dict[UUID, Embedding]:
        """Returns the embeddings, each (d,), of the images with these ids; unknown ids are left
        out."""
        ...

    async def get(self, ids: Sequence[UUID]) -> list[StoredImage]:
        """Returns the images with these ids, in the order asked for; unknown ids are left out."""
        ...

    async def find(
        self, image_id: UUID, sha256: str
    ) -> tuple[StoredImage | None, StoredImage | None]:
        """Returns the image with this id, and the one with the lowest id among those of this
        content, as far as there are such."""
        ...

    async def list(self, *, limit: int, start_id: UUID | None = None) -> ImagePage:
        """Returns up to limit images whose id is at least start_id, ordered by id."""
        ...

    async def list_embedded(self, *, limit: int, start_id: UUID | None = None) -> EmbeddedPage:
        """Like ``list``, with the embeddings as they are stored."""
        ...

    async def delete(self, ids: Sequence[UUID]) -> None:
        """Deletes images. Returns when that is durable; unknown ids are ignored."""
        ...

    async def count(self) -> int:
        """Returns the number of images, exactly."""
        ...

    async def health(self) -> None:
        """Returns if the index answers a search now, or is busy with others; raises
        IndexUnavailable if not, and ModelMismatch if it holds another model's embeddings."""
        ...


class ImageFetcher(Protocol):
    """Fetches an image by its URL."""

    async def fetch(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Returns the body that the URL delivers. Its bytes are taken from the memory that the
        adapter shares with the engine; the caller gives them back. The ``headers``, which are
        secrets of the caller, go to the URL's own scheme, host and port, and nowhere else.

        Raises InvalidRequest (field ``url``) if the URL is malformed, SourceNotAllowed if this
        server does not go there, SourceFailed if its host does not deliver, InvalidImage
        (IMAGE_TOO_LARGE) if the body exceeds the byte limit.
        """
        ...


class ImageDecoder(Protocol):
    """Turns encoded images, which strangers made, into what the vision encoder takes."""

    async def decode(self, content: bytes) -> DecodedImage:
        """Decodes an image and reduces it to the model's size. A caller that gives up frees its
        place at once.

        Raises InvalidImage if it is not one that we take, is broken, exceeds a limit, or made its
        decoder fail; Overloaded if too many wait, DecoderUnavailable if nothing can decode now.
        """
        ...
