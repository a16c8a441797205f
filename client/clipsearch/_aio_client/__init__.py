"""The client for programs with an event loop: SearchClient, awaited."""

from __future__ import annotations

from clipsearch._aio_client.collections import AioCollectionMethods
from clipsearch._aio_client.images import AioImageMethods
from clipsearch._aio_client.queries import AioQueryMethods
from clipsearch._aio_client.transfer import AioTransferMethods


class AsyncSearchClient(AioImageMethods, AioQueryMethods, AioCollectionMethods, AioTransferMethods):
    """Adds images to a clipsearch server and finds them by describing them.

    >>> async with AsyncSearchClient("localhost:50051") as client:
    ...     result = await client.query_text("a black cat")

    It belongs to the event loop that runs when it is made, and may be shared by its tasks. The
    methods take, do and raise what those of ``SearchClient`` do.
    """
