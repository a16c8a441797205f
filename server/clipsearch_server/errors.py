"""What can go wrong, as the domain sees it; `rpc/status.py` turns each into a gRPC status.

* ClipsearchError
  + InvalidRequest            the caller's fault: a field of the request
    - InvalidImage            the content is no image we take
    - SourceNotAllowed        the URL points where this server does not go
    - FilterRefused           the index does not take the filter
  + Unauthenticated           the call says not, or not truly, who calls
  + PermissionDenied          the caller may not do this
  + SourceFailed              the fault of the host that the URL names
  + NotFound                  there is no such image or collection
    - ImageNotFound
    - CollectionNotFound
  + CollectionExists          a collection or an alias has the name already
  + CollectionInUse           the collection cannot be deleted, or the alias be removed, as it is
  + CollectionLeaving         the collection is being deleted
  + TooManyCollections        there are as many as the settings allow
  + ModelMismatch             the collection was filled by another model
  + Overloaded                too much is in flight; later is better
    - QuotaExceeded           by this caller
  + StorageFull               the disk or its quota is full
  + DependencyFailed          a neighbour of ours does not work
    - EncoderUnavailable
    - DecoderUnavailable
    - IndexUnavailable
  + ServerStopping            the server ends before the stream does
  + DeadlineExceeded          the time for the call, or for a part of it, is over
    - OutcomeUnknown          a write was sent, and may or may not have been made
  + ModelOutputInvalid        the encoder answered with what cannot be an embedding
  + StartupError              the server cannot start as configured; never reaches a client
"""

from __future__ import annotations

import random
from uuid import UUID


class ClipsearchError(Exception):
    """Base of every error that a caller or an operator is meant to read.

    ``reason`` is stable and upper snake case (AIP-193); the message says what to do about it and
    may change. ``metadata`` holds the dynamic parts of the message, for programs.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidRequest(ClipsearchError):
    """A field of the request is missing, malformed or out of range. The caller must change it."""

    reason = "INVALID_FIELD"

    def __init__(
        self, field: str, message: str, *, reason: str | None = None, **metadata: str
    ) -> None:
        super().__init__(message, **metadata)
        self.field = field
        if reason is not None:
            self.reason = reason


class InvalidImage(InvalidRequest):
    """The content is not an image, is broken, or exceeds a limit. Sending it again cannot help.

    ``reason`` is one of IMAGE_FORMAT_UNSUPPORTED, IMAGE_UNDECODABLE, IMAGE_TOO_LARGE,
    IMAGE_TOO_COMPLEX, IMAGE_DECODE_FAILED (its decoder crashed, or exceeded its memory or time).
    """

    def __init__(self, message: str, *, reason: str, **metadata: str) -> None:
        super().__init__("content", message, reason=reason, **metadata)


class SourceNotAllowed(InvalidRequest):
    """The URL's scheme, port or address is one that this server does not fetch.

    The message is the same for every address, so that nobody can map a network with it.
    """

    reason = "SOURCE_NOT_ALLOWED"

    def __init__(self) -> None:
        super().__init__("url", "this server does not fetch from the URL's address")


class FilterRefused(InvalidRequest):
    """The index does not take the filter: it would cost too much, or what stores it is too old."""

    reason = "FILTER_REFUSED"

    def __init__(self, message: str) -> None:
        super().__init__("filter", message)


class Unauthenticated(ClipsearchError):
    """The call brings no key, or none that is known."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(ClipsearchError):
    """The caller is known, and may not do this."""

    reason = "PERMISSION_DENIED"


class SourceFailed(ClipsearchError):
    """The host of the URL did not deliver: its fault, not ours and not the request's.

    ``reason`` is one of SOURCE_UNREACHABLE, SOURCE_HTTP_STATUS, SOURCE_UNAVAILABLE, SOURCE_TIMEOUT,
    SOURCE_TOO_MANY_REDIRECTS, SOURCE_ENCODING_NOT_ALLOWED; metadata ``retryable`` is "true" or
    "false".
    """

    def __init__(self, message: str, *, reason: str, retryable: bool, **metadata: str) -> None:
        super().__init__(message, retryable=str(retryable).lower(), **metadata)
        self.reason = reason


class NotFound(ClipsearchError):
    """There is no such resource."""

    reason = "NOT_FOUND"
    resource_type = "resource"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class ImageNotFound(NotFound):
    """No image has this id."""

    reason = "IMAGE_NOT_FOUND"
    resource_type = "clipsearch.v1.Image"

    def __init__(self, image_id: UUID) -> None:
        super().__init__(str(image_id), f"no image has the id {image_id}")


class CollectionNotFound(NotFound):
    """No collection has this name, or no alias does."""

    reason = "COLLECTION_NOT_FOUND"
    resource_type = "clipsearch.v1.Collection"

    def __init__(self, name: str, kind: str = "collection") -> None:
        # A name may be as long as a message, and what travels with a status may not.
        shown = name if len(name) <= 64 else name[:64] + "..."
        super().__init__(shown, f"there is no {kind} named {shown!r}")


class CollectionExists(ClipsearchError):
    """A collection or an alias has the name already."""

    reason = "COLLECTION_EXISTS"

    def __init__(self, name: str, message: str = "") -> None:
        default = f"there is a collection or an alias named {name!r} already"
        super().__init__(message or default, name=name)


class CollectionInUse(ClipsearchError):
    """The collection is the default one or has an alias, or the alias is the default."""

    reason = "COLLECTION_IN_USE"


class CollectionLeaving(ClipsearchError):
    """The collection is being deleted, which may be given up."""

    reason = "INDEX_UNAVAILABLE"

    def __init__(self, name: str) -> None:
        super().__init__(f"the collection {name} is being deleted", name=name)


class TooManyCollections(ClipsearchError):
    """There are as many collections as the settings allow."""

    reason = "TOO_MANY_COLLECTIONS"


class ModelMismatch(ClipsearchError):
    """The collection holds another model's embeddings, which this model's cannot be compared
    with."""

    reason = "MODEL_MISMATCH"


class Overloaded(ClipsearchError):
    """More is in flight than the server takes on. Repeating the call later can help: in
    ``retry_after_s``, or else in about a second."""

    reason = "SERVER_OVERLOADED"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        # Spread, so that those refused together do not come back together.
        self.retry_after_s = random.uniform(0.5, 1.5) if retry_after_s is None else retry_after_s


class QuotaExceeded(Overloaded):
    """The caller has as much of the server as its quota allows, whatever else goes on."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, message: str, *, quota: str, caller: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.metadata["quota"] = quota
        self.caller = caller


class StorageFull(ClipsearchError):
    """The index cannot write because its disk is full. Reading still works."""

    reason = "STORAGE_FULL"


class DependencyFailed(ClipsearchError):
    """A neighbour of the server's does not answer, or answers with an error of its own."""

    reason = "DEPENDENCY_UNAVAILABLE"


class EncoderUnavailable(DependencyFailed):
    """The encoder cannot be reached or has stopped."""

    reason = "MODEL_UNAVAILABLE"


class DecoderUnavailable(DependencyFailed):
    """No process that decodes images can be started, or it was stopped."""

    reason = "DECODER_UNAVAILABLE"


class IndexUnavailable(DependencyFailed):
    """The index cannot be reached or has stopped."""

    reason = "INDEX_UNAVAILABLE"


class ServerStopping(ClipsearchError):
    """The server ends before the stream does. What has an answer is done; the rest is for another
    server, or for this one when it is back."""

    reason = "SERVER_STOPPING"

    def __init__(self) -> None:
        super().__init__("the server is stopping; send what has no answer again, in a moment")


class DeadlineExceeded(ClipsearchError):
    """The call's deadline, or the server's own for it, has passed."""

    reason = "DEADLINE_EXCEEDED"


class OutcomeUnknown(DeadlineExceeded):
    """The index took a write and did not say in time that it is made: it may be, or come to be.
    Repeating it under the same id is safe."""

    reason = "OUTCOME_UNKNOWN"


class ModelOutputInvalid(ClipsearchError):
    """The encoder's answer has the wrong shape, is not finite, or is not of unit length."""

    reason = "MODEL_OUTPUT_INVALID"


class StartupError(ClipsearchError):
    """The server cannot start as configured. The message is one line: what, where, and the way
    out."""

    reason = "STARTUP_FAILED"
