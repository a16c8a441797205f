"""A server in memory: collections, aliases, and what it does with images.

Nothing is embedded: the embedding of a content by a model is derived from both, so that a test can
tell what belongs where.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

import grpc
from grpc_status import rpc_status

from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService, make_status

OLD = pb.Model(id="old", fingerprint="a" * 64, embedding_dim=2)
NEW = pb.Model(id="new", fingerprint="b" * 64, embedding_dim=3)

_GONE = make_status(grpc.StatusCode.NOT_FOUND, "no image has this id", "IMAGE_NOT_FOUND")
_AWAY = make_status(grpc.StatusCode.FAILED_PRECONDITION, "the host is away", "SOURCE_TIMEOUT")
_METHODS = (
    *("CreateCollection", "GetCollection", "ListCollections", "SetAlias", "GetServerInfo"),
    *("ListImages", "GetImage", "DeleteImage", "AddImages", "ImportImages", "ExportImages"),
)


def embedding_of(sha256: str, model: pb.Model) -> list[float]:
    seed = hashlib.sha256(f"{sha256} {model.fingerprint}".encode()).digest()
    return [byte / 256 for byte in seed[: model.embedding_dim]]


def id_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


class Library:
    """The server; ``web`` is what is at URLs. ``before`` is called with the name of the method
    before each answer and each item of a stream: there a test writes what others write meanwhile.
    """

    def __init__(self) -> None:
        self.models = [OLD, NEW]
        self.collections: dict[str, pb.Collection] = {}
        self.images: dict[str, dict[str, pb.Image]] = defaultdict(dict)
        self.embeddings: dict[str, dict[str, list[float]]] = defaultdict(dict)
        self.aliases: dict[str, str] = {}
        self.web: dict[str, bytes] = {}
        self.duplicates = "refuse"
        self.failing: dict[str, list[Any]] = {}  # the errors that adding an id gets first
        self.sent: list[pb.AddImageRequest] = []
        self.before: Callable[[str], None] = lambda method: None
        self.lock = RLock()
        self._now_us = 1_700_000_000_000_000
        self.make("images-1", OLD, alias="images")

    def make(self, name: str, model: pb.Model, *, alias: str = "") -> None:
        self.collections[name] = pb.Collection(
            name=name,
            model_id=model.id,
            model_fingerprint=model.fingerprint,
            embedding_dim=model.embedding_dim,
            model_loaded=True,
        )
        if alias:
            self.aliases[alias] = name

    def own_name(self, name: str) -> str:
        name = name or "images"
        return self.aliases.get(name, name)

    def put(self, name: str, request: pb.AddImageRequest) -> pb.AddImageResponse | None:
        """Adds an image, as a server does; None if its host is away."""
        name = self.own_name(name)
        content = self.web.get(request.url) if request.url else request.content
        if content is None:
            return None
        self._now_us += 1
        sha256 = hashlib.sha256(content).hexdigest()
        shelf = self.images[name]
        former = shelf.get(request.id)
        twin = next((it for it in shelf.values() if it.sha256 == sha256), None)
        if former is None and twin is not None and self.duplicates == "refuse":
            return pb.AddImageResponse(
                image=twin, outcome=pb.ADD_OUTCOME_DUPLICATE, duplicate_of=twin.id
            )
        image = pb.Image(
            id=request.id,
            url=request.url,
            uri=request.uri or request.url,
            sha256=sha256,
            media_type="image/png",
            width_px=len(content),
            height_px=1,
            size_bytes=len(content),
        )
        if request.HasField("metadata"):
            image.metadata.CopyFrom(request.metadata)
        if former is None and twin is not None and self.duplicates == "link":
            image.duplicate_of = twin.duplicate_of or twin.id
        image.update_time.FromMicroseconds(self._now_us)
        image.create_time.CopyFrom(
            request.create_time
            if request.HasField("create_time")
            else former.create_time
            if former
            else image.update_time
        )
        outcome = pb.ADD_OUTCOME_REPLACED if former else pb.ADD_OUTCOME_ADDED
        if former and (former.sha256, former.url, former.uri, former.metadata) == (
            image.sha256,
            image.url,
            image.uri,
            image.metadata,
        ):
            return pb.AddImageResponse(image=former, outcome=pb.ADD_OUTCOME_UNCHANGED)
        self.store(name, image)
        return pb.AddImageResponse(image=image, outcome=outcome)

    def store(self, name: str, image: pb.Image) -> None:
        fingerprint = self.collections[name].model_fingerprint
        model = next(it for it in self.models if it.fingerprint == fingerprint)
        self.images[name][image.id] = image
        self.embeddings[name][image.id] = embedding_of(image.sha256, model)

    def remove(self, name: str, image_id: str) -> bool:
        name = self.own_name(name)
        self.embeddings[name].pop(image_id, None)
        return self.images[name].pop(image_id, None) is not None

    def facts(self, name: str) -> dict[str, tuple[Any, ...]]:
        """All that two collections are to agree in, by id."""
        return {
            image_id: (
                it.url,
                it.uri,
                it.sha256,
                it.width_px,
                it.metadata,
                it.create_time,
                it.duplicate_of,
            )
            for image_id, it in sorted(self.images[name].items())
        }

    # The RPCs.

    def GetServerInfo(self, request: Any, _: Any) -> Any:
        return pb.GetServerInfoResponse(
            models=self.models, model=OLD, limits=pb.Limits(max_image_bytes=10_000)
        )

    def _describe(self, name: str) -> pb.Collection:
        collection = pb.Collection()
        collection.CopyFrom(self.collections[name])
        collection.image_count = len(self.images[name])
        collection.is_default = self.aliases["images"] == name
        collection.aliases.extend(sorted(it for it, to in self.aliases.items() if to == name))
        return collection

    def GetCollection(self, request: Any, context: Any) -> Any:
        name = self.own_name(request.name)
        if name not in self.collections:
            context.abort_with_status(rpc_status.to_status(_GONE))
        return pb.GetCollectionResponse(collection=self._describe(name))

    def ListCollections(self, request: Any, _: Any) -> Any:
        collections = [self._describe(name) for name in sorted(self.collections)]
        return pb.ListCollectionsResponse(collections=collections)

    def CreateCollection(self, request: Any, _: Any) -> Any:
        model = next(it for it in self.models if it.fingerprint == request.model)
        self.make(request.name, model)
        made = self.collections[request.name]
        made.prompt_templates.CopyFrom(request.prompt_templates)
        made.indexed_fields.extend(request.indexed_fields)
        return pb.CreateCollectionResponse(collection=self._describe(request.name))

    def SetAlias(self, request: Any, _: Any) -> Any:
        previous = self.aliases.get(request.alias, "")
        self.aliases[request.alias] = request.collection
        return pb.SetAliasResponse(previous_collection=previous)

    def ListImages(self, request: Any, _: Any) -> Any:
        images = self.images[self.own_name(request.collection)]
        ids = sorted(it for it in images if it > request.page_token)
        page, rest = ids[:2], ids[2:]
        return pb.ListImagesResponse(
            images=[images[it] for it in page], next_page_token=page[-1] if rest else ""
        )

    def GetImage(self, request: Any, context: Any) -> Any:
        image = self.images[self.own_name(request.collection)].get(request.id)
        if image is None:
            context.abort_with_status(rpc_status.to_status(_GONE))
        return pb.GetImageResponse(image=image)

    def DeleteImage(self, request: Any, context: Any) -> Any:
        if not self.remove(request.collection, request.id):
            context.abort_with_status(rpc_status.to_status(_GONE))
        return pb.DeleteImageResponse()

    def AddImages(self, requests: Any, _: Any) -> Iterator[Any]:
        for item in requests:
            with self.lock:
                self.before("AddImages")
                self.sent.append(item.request)
                failures = self.failing.get(item.request.id)
                error = failures.pop(0) if failures else None
                response = None if error else self.put(item.request.collection, item.request)
            if response is None:
                yield pb.AddImagesResponse(item_id=item.item_id, error=error or _AWAY)
            else:
                yield pb.AddImagesResponse(item_id=item.item_id, response=response)

    def ImportImages(self, requests: Any, _: Any) -> Iterator[Any]:
        collection, count = "", 0
        for page in requests:
            collection = page.collection or collection
            for embedded in page.images:
                name = self.own_name(collection)
                self.store(name, embedded.image)
                self.embeddings[name][embedded.image.id] = list(embedded.embedding)
            count += len(page.images)
            yield pb.ImportImagesResponse(image_count=count)

    def ExportImages(self, request: Any, _: Any) -> Iterator[Any]:
        name = self.own_name(request.collection)
        model = pb.Model(fingerprint=self.collections[name].model_fingerprint)
        yield pb.ExportImagesResponse(model=model)
        for image_id in sorted(it for it in self.images[name] if it >= request.start_id):
            embedded = pb.EmbeddedImage(
                image=self.images[name][image_id], embedding=self.embeddings[name][image_id]
            )
            yield pb.ExportImagesResponse(images=[embedded])


def serve(service: ScriptedService, library: Library) -> Library:
    """Has the service answer as the library."""

    def handler(name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        answer = getattr(library, name)

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            with library.lock:
                if name != "AddImages":  # which has an item before it
                    library.before(name)
                return answer(request, context)

        return handle

    for name in _METHODS:
        service.answer(name, handler(name))
    return library
