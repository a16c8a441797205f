"""Collections, aliases and several models, over real gRPC on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.budget import Budget
from clipsearch_server.catalog import Catalog, EngineMaker
from clipsearch_server.errors import IndexUnavailable, ModelMismatch
from clipsearch_server.loaded_model import LoadedModel, LoadedModels
from clipsearch_server.model import ModelCard
from clipsearch_server.ports import CollectionSpec, ImageDecoder, ImageIndex
from clipsearch_server.text import Tokenizer
from engines import an_engine
from fakes import FakeEncoder, FakeIndex, FakeStore
from samples import png

Stub = ImageSearchServiceStub
COLOURS = "c" * 64  # the default model's fingerprint
SHADES = "c" * 10 + "d" * 54
UNKNOWN = CollectionSpec(model_id="old", fingerprint="e" * 64, embedding_dim=3)


@pytest.fixture
def shades() -> FakeEncoder:
    """Of a second model."""
    return FakeEncoder()


@pytest.fixture
def models(
    encoder: FakeEncoder,
    shades: FakeEncoder,
    decoder: ImageDecoder,
    tokenizer: Tokenizer,
    card: ModelCard,
) -> LoadedModels:
    other = replace(card, model_id="shades", fingerprint=SHADES)
    return LoadedModels(
        [
            LoadedModel(card=it, tokenizer=tokenizer, encoder=runs, decoder=decoder)
            for it, runs in ((card, encoder), (other, shades))
        ]
    )


@pytest.fixture
def catalog(
    store: FakeStore, models: LoadedModels, executor: ThreadPoolExecutor, memory: Budget
) -> Catalog:
    def maker(collection: str, fingerprint: str, index: ImageIndex) -> EngineMaker:
        (model,) = (it for it in models if it.card.fingerprint == fingerprint)
        return partial(
            an_engine,
            encoder=model.encoder,
            tokenizer=model.tokenizer,
            decoder=model.decoder,
            fetcher=None,
            index=index,
            executor=executor,
            memory=memory,
            collection=collection,
            model_fingerprint=fingerprint,
        )

    return Catalog(store, models, default="images", max_collections=3, engine_maker=maker)


async def create(service: Stub, name: str, **more: object) -> pb.Collection:
    request = pb.CreateCollectionRequest(name=name, **more)  # type: ignore[arg-type]
    return (await service.CreateCollection(request)).collection


async def add(service: Stub, colour: str, **more: object) -> pb.AddImageResponse:
    request = pb.AddImageRequest(content=png(colour), uri=colour, **more)  # type: ignore[arg-type]
    return await service.AddImage(request)


async def found(service: Stub, text: str, collection: str = "") -> list[str]:
    answer = await service.QueryText(pb.QueryTextRequest(text=text, collection=collection))
    return [hit.image.uri for hit in answer.hits]


def templates(*texts: str) -> pb.PromptTemplates:
    return pb.PromptTemplates(templates=texts)


def keyword(field: str) -> pb.IndexedField:
    return pb.IndexedField(field=field, type=pb.FIELD_TYPE_KEYWORD)


async def refusal(call: Awaitable[object]) -> tuple[str, str, str]:
    """Code, reason and message with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = dict(caught.value.trailing_metadata())[GRPC_DETAILS_METADATA_KEY]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return caught.value.code().name, info.reason, caught.value.details() or ""


async def test_a_collection_is_created_described_changed_and_deleted(service: Stub) -> None:
    created = await create(
        service,
        "shades-1",
        model="shades",
        prompt_templates=templates("red {}"),
        indexed_fields=[keyword("metadata.shop")],
    )
    assert created == pb.Collection(
        name="shades-1",
        model_id="shades",
        model_fingerprint=SHADES,
        embedding_dim=3,
        model_loaded=True,
        prompt_templates=templates("red {}"),
        indexed_fields=[keyword("metadata.shop")],
    )
    await service.SetAlias(pb.SetAliasRequest(alias="s", collection="shades-1"))
    update = pb.UpdateCollectionRequest(
        name="s",
        prompt_templates=templates(),
        add_indexed_fields=[keyword("metadata.brand"), keyword("metadata.shop")],
    )
    updated = (await service.UpdateCollection(update)).collection
    assert list(updated.indexed_fields) == [keyword("metadata.shop"), keyword("metadata.brand")]
    assert updated.prompt_templates == templates()
    assert list(updated.aliases) == ["s"]
    assert updated == (await service.GetCollection(pb.GetCollectionRequest(name="s"))).collection
    default = (await service.GetCollection(pb.GetCollectionRequest())).collection
    listed = (await service.ListCollections(pb.ListCollectionsRequest())).collections
    assert list(listed) == [default, updated]
    assert (default.name, list(default.aliases), default.is_default) == (
        "images-1",
        ["images"],
        True,
    )
    await service.DeleteAlias(pb.DeleteAliasRequest(alias="s"))
    await service.DeleteCollection(pb.DeleteCollectionRequest(name="shades-1"))
    listed = (await service.ListCollections(pb.ListCollectionsRequest())).collections
    assert list(listed) == [default]


async def test_each_collection_has_its_own_images_and_model(
    service: Stub, encoder: FakeEncoder, shades: FakeEncoder
) -> None:
    await create(service, "other", model=SHADES)
    await add(service, "red")
    await add(service, "green", collection="other")
    assert await found(service, "red") == await found(service, "red", "images-1") == ["red"]
    assert await found(service, "red", "other") == ["green"]
    assert (encoder.images_embedded, shades.images_embedded) == (1, 1)
    for name, fingerprint in (("", COLOURS), ("other", SHADES)):
        request = pb.EmbedTextsRequest(texts=["red"], collection=name)
        assert (await service.EmbedTexts(request)).model_fingerprint == fingerprint
        exported = service.ExportImages(pb.ExportImagesRequest(collection=name))
        assert (await exported.read()).model.fingerprint == fingerprint
        exported.cancel()


async def test_templates_of_a_collection_hold_until_they_change(service: Stub) -> None:
    for colour in ("red", "blue"):
        await add(service, colour)
    assert await found(service, "x") == await found(service, "what")
    for template, best in (("blue {}", "blue"), ("red {}", "red")):
        await service.UpdateCollection(
            pb.UpdateCollectionRequest(prompt_templates=templates(template))
        )
        assert (await found(service, "x"))[0] == best


async def test_the_default_is_switched_to_another_model(service: Stub, shades: FakeEncoder) -> None:
    await add(service, "red")
    await create(service, "images-2", model=SHADES[:12])
    await add(service, "blue", collection="images-2")
    switch = pb.SetAliasRequest(alias="images", collection="images-2")
    assert (await service.SetAlias(switch)).previous_collection == "images-1"
    assert await found(service, "red") == ["blue"]
    info = await service.GetServerInfo(pb.GetServerInfoRequest())
    assert info.model.id == "shades"
    assert [model.id for model in info.models] == ["shades", "colours"]
    assert [(it.name, it.is_default, it.image_count) for it in info.collections] == [
        ("images-1", False, 1),
        ("images-2", True, 1),
    ]
    # One that is to be created is for the default's model.
    assert (await create(service, "images-3")).model_fingerprint == SHADES
    delete = pb.DeleteCollectionRequest(name="images-1", confirm_name="images-1")
    await service.DeleteCollection(delete)
    assert await found(service, "red") == ["blue"]


async def test_a_query_ends_where_it_began_and_a_deletion_waits_for_it(
    service: Stub, encoder: FakeEncoder
) -> None:
    await add(service, "red")
    await create(service, "images-2", model="shades")
    encoder.gate.clear()
    query = asyncio.create_task(found(service, "red"))
    await encoder.until_waiting(1)
    await service.SetAlias(pb.SetAliasRequest(alias="images", collection="images-2"))
    delete = pb.DeleteCollectionRequest(name="images-1", confirm_name="images-1")
    deletion = asyncio.create_task(_done(service.DeleteCollection(delete)))
    code, reason, _ = await refusal(listing_until_refused(service, "images-1"))
    assert (code, reason) == ("UNAVAILABLE", "INDEX_UNAVAILABLE")
    assert not deletion.done()
    encoder.gate.set()
    assert await query == ["red"]
    await deletion
    assert await found(service, "red") == []
    assert (await refusal(found(service, "red", "images-1")))[0] == "NOT_FOUND"


async def listing_until_refused(service: Stub, name: str) -> None:
    while True:
        await service.ListImages(pb.ListImagesRequest(collection=name))


async def listing_until_served(service: Stub, name: str) -> None:
    while True:
        try:
            await service.ListImages(pb.ListImagesRequest(collection=name))
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def _done(call: Awaitable[object]) -> object:
    return await call


async def test_a_deletion_that_is_given_up_leaves_the_collection(
    service: Stub, encoder: FakeEncoder, shades: FakeEncoder
) -> None:
    await create(service, "other", model="shades")
    await add(service, "red", collection="other")
    shades.gate.clear()
    query = asyncio.create_task(found(service, "red", "other"))
    await shades.until_waiting(1)
    delete = pb.DeleteCollectionRequest(name="other", confirm_name="other")
    deletion = service.DeleteCollection(delete)
    _, _, message = await refusal(listing_until_refused(service, "other"))
    assert "being deleted" in message  # so it has begun, and waits for the query
    deletion.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deletion
    await listing_until_served(service, "other")  # the server knows, before the query ends
    shades.gate.set()
    assert await query == ["red"]
    async with asyncio.timeout(10):
        while await found(service, "red", "other") != ["red"]:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_row_38_a_collection_without_its_model_can_only_be_read_and_cleared(
    service: Stub, store: FakeStore, index: FakeIndex
) -> None:
    added = (await add(service, "red")).image
    await store.create("old", UNKNOWN)
    (image,) = (await index.list(limit=1)).images
    await (await store.open("old")).upsert([image], np.eye(1, 3, dtype=np.float32))
    described = (await service.GetCollection(pb.GetCollectionRequest(name="old"))).collection
    assert (described.model_loaded, described.image_count) == (False, 1)
    stored = await service.GetImage(pb.GetImageRequest(id=added.id, collection="old"))
    assert stored.image == added
    assert (await service.ListImages(pb.ListImagesRequest(collection="old"))).total_size == 1
    exported = [it async for it in service.ExportImages(pb.ExportImagesRequest(collection="old"))]
    assert exported[0].model == pb.Model(id="old", fingerprint="e" * 64, embedding_dim=3)
    assert [it.image for it in exported[1].images] == [added]
    for call in (
        found(service, "red", "old"),
        add(service, "blue", collection="old"),
        service.EmbedTexts(pb.EmbedTextsRequest(texts=["red"], collection="old")),
        service.SetAlias(pb.SetAliasRequest(alias="images", collection="old")),
    ):
        code, reason, message = await refusal(call)
        assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_MISMATCH")
        assert all(it in message for it in ("e" * 64, COLOURS, SHADES, "extra_model_dirs"))
    await service.SetAlias(pb.SetAliasRequest(alias="older", collection="old"))
    await service.DeleteImage(pb.DeleteImageRequest(id=added.id, collection="older"))
    assert (await service.ListImages(pb.ListImagesRequest(collection="old"))).total_size == 0


async def test_a_collection_that_cannot_be_opened_is_left_out_of_the_list(
    service: Stub, store: FakeStore
) -> None:
    await create(service, "other")
    (await store.open("other")).fail_with = IndexUnavailable("its disk is gone")
    listed = (await service.ListCollections(pb.ListCollectionsRequest())).collections
    assert [it.name for it in listed] == ["images-1"]
    get = service.GetCollection(pb.GetCollectionRequest(name="other"))
    assert (await refusal(get))[1] == "INDEX_UNAVAILABLE"
    delete = pb.DeleteCollectionRequest(name="other", confirm_name="other")
    await service.DeleteCollection(delete)


async def test_an_alias_is_not_set_to_a_collection_that_cannot_be_opened(
    service: Stub, store: FakeStore
) -> None:
    await create(service, "other")
    (await store.open("other")).fail_with = IndexUnavailable("its disk is gone")
    switch = service.SetAlias(pb.SetAliasRequest(alias="images", collection="other"))
    assert (await refusal(switch))[:2] == ("UNAVAILABLE", "INDEX_UNAVAILABLE")
    assert (await service.GetCollection(pb.GetCollectionRequest())).collection.name == "images-1"


Refused = Callable[[Stub], Awaitable[object]]


@pytest.mark.parametrize(
    ("call", "code", "reason", "said"),
    [
        (lambda it: create(it, ""), "INVALID_ARGUMENT", "INVALID_FIELD", "name:"),
        (lambda it: create(it, "../a"), "INVALID_ARGUMENT", "INVALID_FIELD", "name:"),
        (lambda it: create(it, ".a"), "INVALID_ARGUMENT", "INVALID_FIELD", "name:"),
        (lambda it: create(it, "a" * 65), "INVALID_ARGUMENT", "INVALID_FIELD", "name:"),
        (lambda it: create(it, "images"), "ALREADY_EXISTS", "COLLECTION_EXISTS", "images"),
        (lambda it: create(it, "images-1"), "ALREADY_EXISTS", "COLLECTION_EXISTS", "images-1"),
        (lambda it: create(it, "a", model="b"), "INVALID_ARGUMENT", "INVALID_FIELD", "model: is n"),
        (lambda it: create(it, "a", model="c" * 8), "INVALID_ARGUMENT", "INVALID_FIELD", "more th"),
        (lambda it: create(it, "a", model="c" * 7), "INVALID_ARGUMENT", "INVALID_FIELD", "none of"),
        (
            lambda it: create(it, "a", prompt_templates=templates("{}", "no")),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "prompt_templates.templates[1]: ",
        ),
        (
            lambda it: create(it, "a", indexed_fields=[keyword("width_px")]),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "indexed_fields[0].field: ",
        ),
        (
            lambda it: create(
                it, "a", indexed_fields=[keyword(f"metadata.a{n}") for n in range(33)]
            ),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "indexed_fields: are 33",
        ),
        (
            lambda it: it.UpdateCollection(
                pb.UpdateCollectionRequest(
                    add_indexed_fields=[
                        keyword("metadata.a"),
                        pb.IndexedField(field="metadata.a", type=pb.FIELD_TYPE_BOOL),
                    ]
                )
            ),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "add_indexed_fields[1].type: is bool",
        ),
        (
            lambda it: it.GetCollection(pb.GetCollectionRequest(name="b")),
            "NOT_FOUND",
            "COLLECTION_NOT_FOUND",
            "b",
        ),
        (
            lambda it: it.DeleteCollection(pb.DeleteCollectionRequest(name="images-1")),
            "FAILED_PRECONDITION",
            "COLLECTION_IN_USE",
            "images-1 is the server's default",
        ),
        (
            lambda it: it.DeleteCollection(pb.DeleteCollectionRequest(name="images")),
            "NOT_FOUND",
            "COLLECTION_NOT_FOUND",
            "images",
        ),
        (
            lambda it: it.DeleteCollection(pb.DeleteCollectionRequest(name="b", confirm_name="b")),
            "NOT_FOUND",
            "COLLECTION_NOT_FOUND",
            "b",
        ),
        (
            lambda it: it.SetAlias(pb.SetAliasRequest(alias="images-1", collection="images-1")),
            "ALREADY_EXISTS",
            "COLLECTION_EXISTS",
            "a collection's own name",
        ),
        (
            lambda it: it.SetAlias(pb.SetAliasRequest(alias="a/b", collection="images-1")),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "alias: ",
        ),
        (
            lambda it: it.SetAlias(pb.SetAliasRequest(alias="a", collection="images")),
            "NOT_FOUND",
            "COLLECTION_NOT_FOUND",
            "images",
        ),
        (
            lambda it: it.DeleteAlias(pb.DeleteAliasRequest(alias="images")),
            "FAILED_PRECONDITION",
            "COLLECTION_IN_USE",
            "images is the server's default",
        ),
        (
            lambda it: it.DeleteAlias(pb.DeleteAliasRequest(alias="images-1")),
            "NOT_FOUND",
            "COLLECTION_NOT_FOUND",
            "images-1",
        ),
    ],
)
async def test_what_is_refused(
    service: Stub, call: Refused, code: str, reason: str, said: str
) -> None:
    told = await refusal(call(service))
    assert told[:2] == (code, reason)
    assert said in told[2]


async def test_no_more_collections_than_the_settings_allow(service: Stub) -> None:
    answers = await asyncio.gather(
        *(_done(create(service, f"c{n}")) for n in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb.Collection) for answer in answers) == 2
    code, reason, message = await refusal(create(service, "one-more"))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_COLLECTIONS")
    assert "max_collections is 3" in message


async def test_images_are_deleted_only_if_it_is_confirmed(service: Stub) -> None:
    await create(service, "other")
    await add(service, "red", collection="other")
    for wrong in ("", "others"):
        delete = pb.DeleteCollectionRequest(name="other", confirm_name=wrong)
        code, _, message = await refusal(service.DeleteCollection(delete))
        assert (code, message.partition(":")[0]) == ("INVALID_ARGUMENT", "confirm_name")
    assert await found(service, "red", "other") == ["red"]
    await service.SetAlias(pb.SetAliasRequest(alias="a", collection="other"))
    delete = pb.DeleteCollectionRequest(name="other", confirm_name="other")
    assert (await refusal(service.DeleteCollection(delete)))[1] == "COLLECTION_IN_USE"


async def test_row_38_the_default_index_is_healthy_only_if_its_model_is_loaded(
    catalog: Catalog, store: FakeStore, shades: FakeEncoder
) -> None:
    await catalog.check_index()
    await catalog.check_encoders()
    await store.create("old", UNKNOWN)
    await store.set_alias("images", "old")  # as another server might
    with pytest.raises(ModelMismatch):
        await catalog.check_index()
    shades.fail_with = IndexUnavailable("off")
    with pytest.raises(IndexUnavailable):
        await catalog.check_encoders()


# The time at which an image was first stored ------------------------------------------------------

BORN = Timestamp(seconds=1_600_000_000, nanos=123_456_789)


async def test_an_image_that_moves_keeps_its_time(service: Stub) -> None:
    image_id = str(UUID(int=7))
    added = await add(service, "red", id=image_id, create_time=BORN)
    whole = Timestamp(seconds=BORN.seconds, nanos=123_456_000)
    assert added.image.create_time == whole
    again = await add(service, "red", id=image_id, create_time=BORN)
    assert again.outcome == pb.ADD_OUTCOME_UNCHANGED
    replaced = await add(service, "blue", id=image_id)
    assert replaced.outcome == pb.ADD_OUTCOME_REPLACED
    assert replaced.image.create_time == whole
    corrected = await add(service, "blue", id=image_id, create_time=Timestamp(seconds=1))
    assert corrected.outcome == pb.ADD_OUTCOME_REPLACED
    assert corrected.image.create_time == Timestamp(seconds=1)


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=-1),
        Timestamp(seconds=int(datetime.now(UTC).timestamp()) + 3600),
        Timestamp(seconds=2**62),
    ],
)
async def test_a_time_that_cannot_be_is_refused(service: Stub, time: Timestamp) -> None:
    code, _, message = await refusal(add(service, "red", create_time=time))
    assert (code, message.partition(":")[0]) == ("INVALID_ARGUMENT", "create_time")
