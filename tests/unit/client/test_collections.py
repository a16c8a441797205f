"""Collections and aliases of both clients: what is asked, what comes back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

import clipsearch
from clipsearch import AddItem, FieldType, IndexedField
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import Driver, ScriptedService, added, make_image, make_status

UNAVAILABLE = make_status(grpc.StatusCode.UNAVAILABLE, "no index", "INDEX_UNAVAILABLE")
MESSAGE = pb.Collection(
    name="images-2",
    image_count=3,
    is_default=True,
    aliases=["images", "pets"],
    model_id="demo",
    model_fingerprint="abc",
    embedding_dim=256,
    model_loaded=True,
    prompt_templates=pb.PromptTemplates(templates=["a {}"]),
    indexed_fields=[
        pb.IndexedField(field="colour", type=pb.FIELD_TYPE_KEYWORD),
        pb.IndexedField(field="new", type=99),  # type: ignore[arg-type]
    ],
)
COLLECTION = clipsearch.Collection(
    name="images-2",
    image_count=3,
    is_default=True,
    aliases=("images", "pets"),
    model_id="demo",
    model_fingerprint="abc",
    embedding_dim=256,
    model_loaded=True,
    prompt_templates=("a {}",),
    indexed_fields=(
        IndexedField("colour", FieldType.KEYWORD),
        IndexedField("new", FieldType.UNSPECIFIED),
    ),
)
FIELDS = [IndexedField("year", FieldType.NUMBER), IndexedField("seen", FieldType.TIME)]
FIELD_MESSAGES = [
    pb.IndexedField(field="year", type=pb.FIELD_TYPE_NUMBER),
    pb.IndexedField(field="seen", type=pb.FIELD_TYPE_TIME),
]


async def test_a_collection_is_created(service: ScriptedService, driver: Driver) -> None:
    service.answer("CreateCollection", pb.CreateCollectionResponse(collection=MESSAGE))
    created = await driver.call(
        "create_collection",
        "images-2",
        model="demo",
        prompt_templates=["a {}"],
        indexed_fields=FIELDS,
    )
    assert created == COLLECTION
    assert service.requests["CreateCollection"] == [
        pb.CreateCollectionRequest(
            name="images-2",
            model="demo",
            prompt_templates=pb.PromptTemplates(templates=["a {}"]),
            indexed_fields=FIELD_MESSAGES,
        )
    ]


async def test_collections_are_read(service: ScriptedService, driver: Driver) -> None:
    service.answer("GetCollection", pb.GetCollectionResponse(collection=MESSAGE))
    service.answer("ListCollections", pb.ListCollectionsResponse(collections=[MESSAGE]))
    assert await driver.call("get_collection", "pets") == COLLECTION
    assert await driver.call("list_collections") == (COLLECTION,)
    assert service.requests["GetCollection"] == [pb.GetCollectionRequest(name="pets")]


@pytest.mark.parametrize(("templates", "is_set"), [(None, False), ((), True), (["a {}"], True)])
async def test_a_collection_is_updated(
    templates: Any, is_set: bool, service: ScriptedService, driver: Driver
) -> None:
    service.answer("UpdateCollection", pb.UpdateCollectionResponse(collection=MESSAGE))
    updated = await driver.call(
        "update_collection", "pets", prompt_templates=templates, add_indexed_fields=FIELDS
    )
    assert updated == COLLECTION
    [request] = service.requests["UpdateCollection"]
    assert request.name == "pets"
    assert request.HasField("prompt_templates") is is_set
    assert list(request.prompt_templates.templates) == list(templates or [])
    assert list(request.add_indexed_fields) == FIELD_MESSAGES


async def test_a_collection_is_deleted(service: ScriptedService, driver: Driver) -> None:
    service.answer("DeleteCollection", pb.DeleteCollectionResponse())
    assert await driver.call("delete_collection", "old", confirm_name="old") is None
    assert service.requests["DeleteCollection"] == [
        pb.DeleteCollectionRequest(name="old", confirm_name="old")
    ]


async def test_aliases(service: ScriptedService, driver: Driver) -> None:
    service.answer("SetAlias", pb.SetAliasResponse(previous_collection="images-1"))
    service.answer("DeleteAlias", pb.DeleteAliasResponse())
    assert await driver.call("set_alias", "images", "images-2") == "images-1"
    assert await driver.call("delete_alias", "pets") is None
    assert service.requests["SetAlias"] == [
        pb.SetAliasRequest(alias="images", collection="images-2")
    ]
    assert service.requests["DeleteAlias"] == [pb.DeleteAliasRequest(alias="pets")]


async def test_setting_an_alias_is_repeated(service: ScriptedService, driver: Driver) -> None:
    service.answer("SetAlias", UNAVAILABLE, pb.SetAliasResponse())
    await driver.call("set_alias", "images", "images-2")
    assert len(service.requests["SetAlias"]) == 2


async def test_creating_is_not_repeated(service: ScriptedService, driver: Driver) -> None:
    service.answer("CreateCollection", UNAVAILABLE, pb.CreateCollectionResponse(collection=MESSAGE))
    with pytest.raises(clipsearch.UnavailableError):
        await driver.call("create_collection", "images-2")
    assert len(service.requests["CreateCollection"]) == 1


async def test_the_models_of_a_server(service: ScriptedService, driver: Driver) -> None:
    models = [pb.Model(id="demo", fingerprint="abc"), pb.Model(id="other", fingerprint="def")]
    service.answer("GetServerInfo", pb.GetServerInfoResponse(model=models[0], models=models))
    info = await driver.call("server_info")
    assert [model.fingerprint for model in info.models] == ["abc", "def"]
    assert info.model == info.models[0]


async def test_an_image_keeps_its_time(service: ScriptedService, driver: Driver) -> None:
    time = datetime(2020, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    response = pb.AddImageResponse(image=make_image(1), outcome=pb.ADD_OUTCOME_ADDED)
    service.answer("AddImage", response)
    times = []

    def keep(requests: Any, _: grpc.ServicerContext) -> Any:
        for request in requests:
            times.append(request.request.create_time.ToDatetime(UTC))
            yield added(request)

    service.answer("AddImages", keep)
    await driver.call("add_image", content=b"x", create_time=time)
    await driver.collect("add_images", [AddItem(item_id="1", content=b"x", create_time=time)])
    [request] = service.requests["AddImage"]
    assert [request.create_time.ToDatetime(UTC), *times] == [time, time]


async def test_a_time_has_a_time_zone(driver: Driver) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        await driver.call("add_image", content=b"x", create_time=datetime(2020, 1, 2))
