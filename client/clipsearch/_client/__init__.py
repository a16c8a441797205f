"""The client for programs with threads."""

from __future__ import annotations

from clipsearch._client.collections import CollectionMethods
from clipsearch._client.images import ImageMethods
from clipsearch._client.queries import QueryMethods
from clipsearch._client.transfer import TransferMethods


class SearchClient(ImageMethods, QueryMethods, CollectionMethods, TransferMethods):
    """Adds images to a clipsearch server and finds them by describing them.

    >>> with SearchClient("localhost:50051") as client:
    ...     client.add_image(url="https://example.com/cat.jpg")
    ...     for hit in client.query_text("a black cat").hits:
    ...         print(hit.score, hit.image.uri)

    One client is meant to live long and may be shared by threads. Every method raises a
    ``SearchError``, and takes ``timeout_s``, the seconds for the whole call with its retries, in
    place of the client's own. A call that the server could not be reached for, or that it was too
    busy for and asked to repeat, is repeated within that time. ``collection`` names a collection
    other than the server's default.
    """
