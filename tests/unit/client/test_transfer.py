"""Export and import, of both clients."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from clipsearch import (
    AsyncSearchClient,
    DeadlineExceededError,
    EmbeddedImage,
    Image,
    InvalidRequestError,
    ModelMismatchError,
    NotFoundError,
    UnavailableError,
)
from clipsearch._convert import transfer as convert
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import (
    Driver,
    ScriptedService,
    export_pages,
    make_embedded,
    make_status,
)

SMALLEST_MESSAGE_LIMIT = 2**20  # that a server can have


def an_image(number: int, **changes: Any) -> EmbeddedImage:
    image = Image(
        id=f"00000000-0000-0000-0000-{number:012d}",
        url="https://example.com/cat.png",
        uri="a cat",
        metadata={"n": number / 10},
        sha256=f"{number:064x}",
        media_type="image/png",
        width_px=640,
        height_px=480,
        size_bytes=12_345,
        create_time=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
        update_time=datetime(2026, 1, 2, 3, 4, 6, 1, tzinfo=UTC),
    )
    return EmbeddedImage(
        image=replace(image, **changes), embedding=array("f", [0.6, 0.8]), model_fingerprint="abc"
    )


def make_images(count: int) -> Iterator[EmbeddedImage]:
    return map(an_image, range(count))


async def collect_into(results: list[Any], iterator: AsyncIterator[Any]) -> None:
    """Keeps what comes before an exception."""
    async for result in iterator:
        results.append(result)  # noqa: PERF401 - a comprehension would keep nothing


def exact(metadata: Struct) -> str:
    """Tells 0 from -0, and true from 1."""
    return json.dumps(MessageToDict(metadata), sort_keys=True)


def keep_into(pages: list[Any]) -> Any:
    """Has a service keep the pages that it acknowledges."""

    def answer(requests: Any, _: grpc.ServicerContext) -> Iterator[pb.ImportImagesResponse]:
        for request in requests:
            pages.append(request)
            yield pb.ImportImagesResponse(image_count=sum(len(page.images) for page in pages))

    return answer


async def test_every_image_is_exported(service: ScriptedService, driver: Driver) -> None:
    messages = [make_embedded(number) for number in range(7)]
    pages = export_pages(messages[:4], messages[4:7])
    service.answer("ExportImages", lambda request, context: pages)
    images = await driver.collect("export_images", collection="pets", start_id="some-id")
    assert service.requests["ExportImages"] == [
        pb.ExportImagesRequest(collection="pets", start_id="some-id")
    ]
    assert [it.image.sha256 for it in images] == [f"{number:064x}" for number in range(7)]
    assert images[3].embedding == array("f", [3, 3.1, 3.2, 3.3])
    assert {it.model_fingerprint for it in images} == {"abc"}
    assert images[5].image.create_time == datetime.fromtimestamp(1_700_000_000.000005, UTC)


async def test_an_empty_collection_is_exported(service: ScriptedService, driver: Driver) -> None:
    service.answer("ExportImages", lambda request, context: export_pages([]))
    assert await driver.collect("export_images") == []


async def test_an_export_that_fails_raises(service: ScriptedService, driver: Driver) -> None:
    missing = make_status(grpc.StatusCode.NOT_FOUND, "no such thing", "COLLECTION_NOT_FOUND")
    service.answer("ExportImages", missing)
    with pytest.raises(NotFoundError):
        await driver.collect("export_images")


async def test_an_export_that_breaks_off_is_no_whole_one(
    service: ScriptedService, driver: Driver
) -> None:
    gone = make_status(grpc.StatusCode.UNAVAILABLE, "going down", "INDEX_UNAVAILABLE")

    def answer(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from export_pages([make_embedded(1), make_embedded(2)])
        context.abort_with_status(rpc_status.to_status(gone))

    service.answer("ExportImages", answer)
    seen: list[Any] = []
    with pytest.raises(UnavailableError, match="going down"):
        await collect_into(seen, driver.iterate("export_images"))
    assert [embedded.image.id[-1] for embedded in seen] == ["1", "2"]


async def test_leaving_an_export_early_ends_the_call(
    service: ScriptedService, driver: Driver
) -> None:
    ended = threading.Event()

    def answer(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(ended.set)
        yield from export_pages(*([make_embedded(number)] for number in range(1000)))

    service.answer("ExportImages", answer)
    images = driver.iterate("export_images")
    async for _ in images:
        break
    await images.aclose()
    assert ended.wait(5)


async def test_a_page_that_does_not_come_is_not_waited_for_for_ever(
    service: ScriptedService, driver: Driver
) -> None:
    def fall_silent(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from export_pages([make_embedded(1)])
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(30)

    service.answer("ExportImages", fall_silent)
    with pytest.raises(DeadlineExceededError, match=r"no result for 0\.3 seconds"):
        await driver.collect("export_images", timeout_s=0.3)


async def test_every_image_is_imported_as_it_is(service: ScriptedService, driver: Driver) -> None:
    pages: list[Any] = []
    service.answer("ImportImages", keep_into(pages))
    stored = await driver.collect("import_images", make_images(150), collection="pets")
    assert stored == [64, 128, 150]
    assert [(page.collection, page.model_fingerprint) for page in pages] == [
        ("pets", "abc"),
        ("", ""),
        ("", ""),
    ]
    sent = [convert.embedded_image(it, "abc") for page in pages for it in page.images]
    assert sent == list(make_images(150))


async def test_pages_fit_into_any_servers_messages(
    service: ScriptedService, driver: Driver
) -> None:
    pages: list[Any] = []
    service.answer("ImportImages", keep_into(pages))
    large = {"numbers": [0.5] * 3000}
    images = (an_image(number, metadata=large) for number in range(100))
    stored = await driver.collect("import_images", images)
    assert stored[-1] == 100
    assert max(page.ByteSize() for page in pages) < SMALLEST_MESSAGE_LIMIT


async def test_images_are_consumed_as_pages_are_stored(
    service: ScriptedService, driver: Driver
) -> None:
    service.answer("ImportImages", keep_into([]))
    taken = 0

    def counted() -> Iterator[EmbeddedImage]:
        nonlocal taken
        for image in make_images(1000):
            taken += 1
            yield image

    ahead = [taken - stored async for stored in driver.iterate("import_images", counted())]
    assert taken == 1000
    assert max(ahead) <= 64  # a page


async def test_nothing_is_imported_from_nothing(service: ScriptedService, driver: Driver) -> None:
    pages: list[Any] = []
    service.answer("ImportImages", keep_into(pages))
    assert await driver.collect("import_images", []) == []
    assert pages == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            make_status(grpc.StatusCode.FAILED_PRECONDITION, "not ours", "MODEL_MISMATCH"),
            ModelMismatchError,
        ),
        (
            make_status(grpc.StatusCode.INVALID_ARGUMENT, "images[3].embedding: no", "INVALID"),
            InvalidRequestError,
        ),
    ],
)
async def test_a_page_that_is_refused_raises(
    service: ScriptedService, driver: Driver, status: Any, error: type[Exception]
) -> None:
    def refuse_the_second(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.ImportImagesResponse(image_count=len(next(requests).images))
        next(requests)
        context.abort_with_status(rpc_status.to_status(status))

    service.answer("ImportImages", refuse_the_second)
    stored: list[int] = []
    with pytest.raises(error):
        await collect_into(stored, driver.iterate("import_images", make_images(1000)))
    assert stored == [64]


async def test_an_import_that_ends_too_early_raises(
    service: ScriptedService, driver: Driver
) -> None:
    def answer_one(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.ImportImagesResponse(image_count=len(next(requests).images))

    service.answer("ImportImages", answer_one)
    with pytest.raises(UnavailableError, match="ended the stream before"):
        await driver.collect("import_images", make_images(1000))


async def test_an_exception_of_the_images_ends_the_import(
    service: ScriptedService, driver: Driver
) -> None:
    def broken() -> Iterator[EmbeddedImage]:
        yield from make_images(100)
        raise OSError("the disk is gone")

    service.answer("ImportImages", keep_into([]))
    with pytest.raises(OSError, match="disk is gone"):
        await driver.collect("import_images", broken())


async def test_images_of_two_models_are_not_mixed(service: ScriptedService, driver: Driver) -> None:
    service.answer("ImportImages", keep_into([]))
    images = [an_image(1), replace(an_image(2), model_fingerprint="def")]
    with pytest.raises(ValueError, match="two models, abc and def"):
        await driver.collect("import_images", images)


async def test_images_may_come_asynchronously(service: ScriptedService) -> None:
    async def images() -> AsyncIterator[EmbeddedImage]:
        for image in make_images(100):
            yield image

    service.answer("ImportImages", keep_into([]))
    async with AsyncSearchClient(service.target) as client:
        stored = [count async for count in client.import_images(images())]
    assert stored[-1] == 100


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.recursive(
        st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec="utf-8"), max_size=5),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(metadata=METADATA, time=st.datetimes(timezones=st.just(UTC)))
def test_what_was_exported_is_imported_to_the_last_digit(
    metadata: dict[str, Any], time: datetime
) -> None:
    message = make_embedded(1)
    message.image.metadata.update(metadata)
    message.image.create_time.FromDatetime(time)
    pages = convert.ImportPages("")
    pages.add(convert.embedded_image(message, "abc"))
    page = pages.rest()
    assert page is not None
    (again,) = page.images
    assert again.embedding == message.embedding
    assert again.image.create_time == message.image.create_time
    assert exact(again.image.metadata) == exact(message.image.metadata)
    for image in (again.image, message.image):
        image.metadata.SetInParent()  # to be unset is to be empty
    assert again == message
