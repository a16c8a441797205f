"""The service: each method converts what it gets, calls the engine, and converts what it
answers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.rpc import convert, transfer
from clipsearch_server.rpc.collection_methods import CollectionMethods
from clipsearch_server.rpc.options import Context, ServiceOptions
from clipsearch_server.rpc.query_methods import QueryMethods
from clipsearch_server.rpc.request_ids import RequestIds, request_digest
from clipsearch_server.rpc.status import reason_of, to_status
from clipsearch_server.rpc.streams import map_unordered

logger = logging.getLogger(__name__)


class ImageSearchServicer(QueryMethods, CollectionMethods, ImageSearchServiceServicer):
    """Implements clipsearch.v1.ImageSearchService; the .proto file says what each method does."""

    def __init__(self, catalog: Catalog, options: ServiceOptions) -> None:
        self._catalog = catalog
        self._options = options
        self._request_ids = RequestIds()

    async def AddImage(self, request: pb.AddImageRequest, context: Context) -> pb.AddImageResponse:
        async with self._options.memory.take(len(request.content)):
            return await self._add(request)

    async def AddImages(
        self, request_iterator: AsyncIterator[pb.AddImagesRequest], context: Context
    ) -> AsyncIterator[pb.AddImagesResponse]:
        outcomes: Counter[str] = Counter()
        try:
            async for response in map_unordered(
                self._add_item,
                request_iterator,
                limit=self._options.max_in_flight_per_stream,
                memory=self._options.memory,
                size_of=_content_bytes,
            ):
                outcomes[_outcome(response)] += 1
                yield response
        finally:
            counts = " ".join(f"{outcome}={count}" for outcome, count in outcomes.most_common())
            logger.info("added items=%d %s", outcomes.total(), counts)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        engine = await self._catalog.engine(request.collection)
        stored = await engine.get(convert.image_id(request.id))
        return pb.GetImageResponse(image=convert.image(stored))

    async def ListImages(
        self, request: pb.ListImagesRequest, context: Context
    ) -> pb.ListImagesResponse:
        engine = await self._catalog.engine(request.collection)
        limit = convert.page_limit(
            "page_size", request.page_size, default=convert.DEFAULT_PAGE_SIZE
        )
        page = await engine.list(limit=limit, start_id=convert.list_start(request.page_token))
        return convert.list_response(page, await engine.count())

    async def DeleteImage(
        self, request: pb.DeleteImageRequest, context: Context
    ) -> pb.DeleteImageResponse:
        engine = await self._catalog.engine(request.collection)
        await engine.delete(convert.image_id(request.id))
        return pb.DeleteImageResponse()

    async def ExportImages(
        self, request: pb.ExportImagesRequest, context: Context
    ) -> AsyncIterator[pb.ExportImagesResponse]:
        engine = await self._catalog.engine(request.collection)
        start_id = convert.image_id(request.start_id, "start_id") if request.start_id else None
        yield pb.ExportImagesResponse(
            model=self._options.info.model, total_size=await engine.count()
        )
        async for page in engine.export_images(start_id=start_id):
            yield transfer.export_response(page)

    async def ImportImages(
        self,
        request_iterator: AsyncIterator[pb.ImportImagesRequest | InvalidRequest],
        context: Context,
    ) -> AsyncIterator[pb.ImportImagesResponse]:
        model = self._options.info.model
        is_first = True
        image_count = 0
        async for request in request_iterator:
            if isinstance(request, InvalidRequest):  # it could not be parsed: see `interceptors`
                raise request
            if is_first:
                engine = await self._catalog.engine(request.collection)
                transfer.check_model(request, model)
                is_first = False
            images, embeddings = transfer.imported_images(request, model.embedding_dim)
            await engine.import_images(images, embeddings)
            image_count += len(images)
            yield pb.ImportImagesResponse(image_count=image_count)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        engine = await self._catalog.engine("")
        response = pb.GetServerInfoResponse()
        response.CopyFrom(self._options.info)
        response.encoder = engine.encoder_description
        response.index = engine.index_description
        response.collections.add(
            name=self._options.collection,
            image_count=await engine.count(),
            is_default=True,
        )
        return response

    async def _add(self, request: pb.AddImageRequest) -> pb.AddImageResponse:
        engine = await self._catalog.engine(request.collection)
        new = convert.new_image(request)
        request_id = convert.optional_id(request.request_id, "request_id")
        if request_id is None:
            del request  # its content was copied
            return convert.add_response(await engine.add(new))

        async def answer() -> pb.AddImageResponse:
            return convert.add_response(await engine.add(new))

        digest = await asyncio.to_thread(request_digest, request)
        del request
        return await self._request_ids.once(request_id, digest, answer)

    async def _add_item(
        self, request: pb.AddImagesRequest | InvalidRequest
    ) -> pb.AddImagesResponse:
        """Adds one item of a stream; whatever goes wrong is the item's own result. One that could
        not be parsed comes as its error (see `interceptors`), and has no id to be named by."""
        if isinstance(request, InvalidRequest):
            return pb.AddImagesResponse(error=to_status(request))
        item_id = request.item_id
        try:
            convert.check_item_id(item_id)
            adding = self._add(request.request)
            del request  # its content is copied
            return pb.AddImagesResponse(item_id=item_id, response=await adding)
        except Exception as error:  # every error has a status; see `to_status`
            return pb.AddImagesResponse(item_id=item_id, error=to_status(error))


def _outcome(response: pb.AddImagesResponse) -> str:
    if response.WhichOneof("result") == "error":
        return reason_of(response.error)
    return pb.AddOutcome.Name(response.response.outcome).removeprefix("ADD_OUTCOME_")


def _content_bytes(request: pb.AddImagesRequest | InvalidRequest) -> int:
    return 0 if isinstance(request, InvalidRequest) else len(request.request.content)
