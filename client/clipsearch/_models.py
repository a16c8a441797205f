"""What callers give and get: frozen dataclasses, so that nobody has to touch a protobuf message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from clipsearch._errors import SearchError

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
Metadata: TypeAlias = Mapping[str, JsonValue]


class AddOutcome(StrEnum):
    """What adding an image changed."""

    ADDED = "added"  # the image is new
    UNCHANGED = "unchanged"  # it was there already, with the same uri and metadata
    REPLACED = "replaced"  # the id was there already; content, uri or metadata is new
    DUPLICATE = "duplicate"  # the id is new, and the same content is stored under another one
    UNSPECIFIED = "unspecified"  # the server is newer and answers what this client does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as it is stored: everything but its pixels and its embedding."""

    id: str  # a UUID in lower case with hyphens
    url: str  # it was fetched from here; empty if it was added by content
    uri: str  # by which the picture can be seen; empty if none was given
    metadata: Metadata = field(hash=False)  # numbers are doubles on the way; whole ones are ints
    sha256: str  # of the encoded image, lower-case hexadecimal
    media_type: str  # "image/jpeg", ...
    width_px: int  # after turning it upright by its EXIF orientation
    height_px: int
    size_bytes: int  # of the encoded image
    create_time: datetime  # aware, UTC
    update_time: datetime  # when the image, its uri or its metadata last changed; aware, UTC
    duplicate_of: str = ""  # the id of the image it was a linked copy of when it was stored


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedImage:
    """An image with its embedding: all that a server stores of it, so that another can have it."""

    image: Image
    embedding: Sequence[float] = field(hash=False, repr=False)  # of L2 norm 1; array("f") if read
    model_fingerprint: str  # of the model that embedded it; other models' embeddings do not compare


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedImage:
    """An image that was added, or was there already."""

    image: Image  # of a duplicate that the server refused: the image that is stored already
    outcome: AddOutcome
    duplicate_of: str = ""  # of a duplicate: the id of the image that has the same content


@dataclass(frozen=True, slots=True, kw_only=True)
class AddItem:
    """One image of a bulk add: an ``item_id`` and either ``url`` or ``content``.

    ``item_id`` comes back with the result; it is at most 256 bytes and should be unique. The other
    fields are those of ``SearchClient.add_image``.
    """

    item_id: str
    url: str | None = None
    content: bytes | None = field(default=None, repr=False)
    id: str = ""
    uri: str = ""
    metadata: Metadata = field(default_factory=dict, hash=False)
    fetch_headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddResult:
    """What became of one image of a bulk add: ``added`` or ``error``, the other is None."""

    item_id: str
    added: AddedImage | None = None
    error: SearchError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image found, with the cosine similarity of its embedding and the query's: -1 to 1."""

    image: Image
    score: float
    near_duplicate_count: int = 0  # images that ``Ranking.collapse`` left out in favour of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How hits are chosen from the images that are most like the query."""

    # Leave out images that are hardly more like the query than the collection's are on the whole.
    auto_cut: bool = False
    # Of images that are nearly the same, keep the best one: those whose embeddings have a cosine
    # similarity of ``collapse_similarity`` at least (None: the server's setting).
    collapse: bool = False
    collapse_similarity: float | None = None
    # From 0 to 1: how much hits are to differ from each other, by maximal marginal relevance.
    diversity: float = 0.0
    # Compare the query with every image, so that no hit is missed.
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTerm:
    """A text or an image that hits are to be like, or unlike if the weight is below zero: exactly
    one of ``text``, ``image_id``, ``image_url`` and ``image_content``."""

    text: str | None = None
    image_id: str | None = None  # of a stored image, which is itself no hit
    image_url: str | None = None  # the server fetches it
    image_content: bytes | None = field(default=None, repr=False)  # the encoded image
    weight: float = 1.0  # from -100 to 100, and not 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """The images found, best first."""

    hits: tuple[Hit, ...]
    truncated: bool  # a text was longer than the model's token limit and was cut
    token_count: int  # tokens embedded, the start and end tokens included; 0 if not of one text
    next_page_token: str  # empty if there are no more hits
    timings_ms: Mapping[str, float] = field(hash=False)  # the server's stages; empty if untold
    cut_off: float | None = None  # the score below which ``auto_cut`` left images out
    truncated_terms: tuple[int, ...] = ()  # of a mix: the places, from 0, of the texts cut


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResult:
    """What was found for one text of many: ``result`` or ``error``, the other is None."""

    text: str
    result: QueryResult | None = None
    error: SearchError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeddings:
    """The embeddings of texts: array("f") of L2 norm 1, in the order of the texts."""

    embeddings: tuple[Sequence[float], ...] = field(hash=False, repr=False)
    model_fingerprint: str  # of the model that embedded them; empty if there were no texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePage:
    """Some of a collection's images, ordered by id."""

    images: tuple[Image, ...]
    next_page_token: str  # empty if there are no more images
    total_size: int  # images in the collection


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that embeds images and texts."""

    id: str  # "openai/clip-vit-base-patch32", ...
    fingerprint: str  # embeddings of models with different ones cannot be compared
    precision: str  # "fp32", "fp16", "int8" or "int8-dynamic"
    embedding_dim: int
    image_size_px: int  # width and height to which an image is reduced before it is embedded
    max_tokens: int  # of a text, the start and end tokens included


class FieldType(StrEnum):
    """The type of a field's values."""

    KEYWORD = "keyword"  # strings
    NUMBER = "number"
    BOOL = "bool"
    TIME = "time"  # in the form of RFC 3339
    UNSPECIFIED = "unspecified"  # the server is newer and answers what this client does not know


@dataclass(frozen=True, slots=True)
class IndexedField:
    """A field of metadata that has an index; the name is a path, as in ``clipsearch.filters``."""

    field: str
    type: FieldType


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection of images."""

    name: str
    image_count: int
    is_default: bool  # calls that name no collection mean this one
    aliases: tuple[str, ...] = ()  # the other names that stand for it, in alphabetical order
    model_id: str = ""  # of the model that fills it
    model_fingerprint: str = ""
    embedding_dim: int = 0
    model_loaded: bool = False  # if not, its images can be neither added nor searched
    prompt_templates: tuple[str, ...] = ()  # for texts, unless a query brings its own
    indexed_fields: tuple[IndexedField, ...] = ()  # the metadata on which filters are fast


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds that the server sets its callers."""

    max_image_bytes: int  # of an encoded image
    max_image_pixels: int
    default_limit: int  # hits, when a query sets no limit
    max_limit: int  # hits or images on a page
    fetch_enabled: bool  # images may be added by URL


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What the server is."""

    version: str
    model: Model  # of the default collection
    encoder: str  # what runs the model, with its version
    index: str  # what stores and searches the embeddings, with its version
    collections: tuple[Collection, ...]
    limits: Limits
    models: tuple[Model, ...] = ()  # that the server runs, that of the default collection first
