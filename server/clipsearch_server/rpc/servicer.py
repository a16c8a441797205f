"""The service: each method converts what it gets, calls the engine, and converts what it
answers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceServicer
from clipsearch_server.catalog import Catalog
from clipsearch_server.errors import ImageNotFound, InvalidRequest
from clipsearch_server.rpc import convert, transfer
from clipsearch_server.rpc.answers import Answers
from clipsearch_server.rpc.collection_methods import CollectionMethods
from clipsearch_server.rpc.collections import collection, model_of
from clipsearch_server.rpc.options import Context, ServiceOptions
from clipsearch_server.rpc.query_methods import QueryMethods
from clipsearch_server.rpc.repetition import deleting
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
        self._answers = Answers()

    async def AddImage(self, request: pb.AddImageRequest, context: Context) -> pb.AddImageResponse:
        async with self._options.memory.take(len(request.content)):
            return await self._add(request)

    async def AddImages(
        self, request_iterator: AsyncIterator[pb.AddImagesRequest], context: Context
    ) -> AsyncGenerator[pb.AddImagesResponse]:
        outcomes: Counter[str] = Counter()
        try:
            results = map_unordered(
                self._add_item,
                request_iterator,
                limit=self._options.max_in_flight_per_stream,
                memory=self._options.memory,
                size_of=_content_bytes,
            )
            async with aclosing(results) as responses:
                async for response in responses:
                    outcomes[_outcome(response)] += 1
                    yield response
        finally:
            counts = " ".join(f"{outcome}={count}" for outcome, count in outcomes.most_common())
            logger.info("added items=%d %s", outcomes.total(), counts)

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        async with self._catalog.images(request.collection) as images:
            stored = await images.get(convert.image_id(request.id))
        return pb.GetImageResponse(image=convert.image(stored))

    async def ListImages(
        self, request: pb.ListImagesRequest, context: Context
    ) -> pb.ListImagesResponse:
        limit = convert.page_limit(
            "page_size", request.page_size, default=convert.DEFAULT_PAGE_SIZE
        )
        start_id = convert.list_start(request.page_token)
        async with self._catalog.images(request.collection) as images:
            page = await images.list(limit=limit, start_id=start_id)
            return convert.list_response(page, await images.count())

    async def DeleteImage(
        self, request: pb.DeleteImageRequest, context: Context
    ) -> pb.DeleteImageResponse:
        async with self._catalog.images(request.collection) as images:
            with deleting(ImageNotFound, context):
                await images.delete(convert.image_id(request.id))
        return pb.DeleteImageResponse()

    async def ExportImages(
        self, request: pb.ExportImagesRequest, context: Context
    ) -> AsyncIterator[pb.ExportImagesResponse]:
        start_id = convert.optional_id(request.start_id, "start_id")
        async with self._catalog.images(request.collection) as images:
            model = self._catalog.models.find(images.spec)
            yield pb.ExportImagesResponse(
                model=convert.model(model.card) if model else model_of(images.spec),
                total_size=await images.count(),
            )
            async for page in images.export(start_id=start_id):
                yield transfer.export_response(page)

    async def ImportImages(
        self,
        request_iterator: AsyncIterator[pb.ImportImagesRequest | InvalidRequest],
        context: Context,
    ) -> AsyncIterator[pb.ImportImagesResponse]:
        image_count = 0
        async with AsyncExitStack() as stack:
            engine = None
            async for request in request_iterator:
                if isinstance(request, InvalidRequest):  # it could not be parsed: `interceptors`
                    raise request
                if engine is None:
                    target = await stack.enter_async_context(
                        self._catalog.images(request.collection)
                    )
                    engine = await stack.enter_async_context(self._catalog.engine(target.name))
                    transfer.check_model(request, target.spec)
                images, embeddings = transfer.imported_images(request, target.spec.embedding_dim)
                await engine.import_images(images, embeddings)
                image_count += len(images)
                yield pb.ImportImagesResponse(image_count=image_count)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        model = await self._catalog.default_model()
        infos = await self._catalog.collections()
        response = pb.GetServerInfoResponse()
        response.CopyFrom(self._options.info)
        response.encoder = model.encoder.description
        response.index = self._catalog.index_description
        response.collections.extend(map(collection, infos))
        response.model.CopyFrom(convert.model(model.card))
        others = (it for it in self._catalog.models if it is not model)
        response.models.extend(convert.model(it.card) for it in (model, *others))
        return response

    async def _add(self, request: pb.AddImageRequest) -> pb.AddImageResponse:
        new, name = convert.new_image(request), request.collection
        request_id = convert.optional_id(request.request_id, "request_id")

        async def answer() -> pb.AddImageResponse:
            async with self._catalog.engine(name) as engine:
                return convert.add_response(await engine.add(new))

        if request_id is None:
            del request  # its content was copied
            return await answer()
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
