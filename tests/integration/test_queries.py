"""Queries of the real server, with Qdrant Edge and the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from uuid import UUID

import grpc
import numpy as np
import pytest
from PIL import Image

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch.v1.image_search_pb2_grpc import ImageSearchServiceStub
from clipsearch_server.rpc import convert
from clipsearch_server.testing import ServerProcess
from stored_images import an_image

PICTURES = Path(__file__).parents[2] / "demo" / "pictures"
CATS = ("black-cat", "cat", "cat-face", "grinning-cat", "crying-cat", "dog", "dog-face", "poodle")
OTHERS = ("ambulance", "airplane", "anchor", "balloon", "banana", "pizza", "rocket", "guitar",
          "umbrella", "key", "hammer", "green-apple", "red-apple", "tiger", "snail",
          "fog")  # fmt: skip
SIZES = (120, 122, 124)  # of copies of one picture


def content(name: str) -> bytes:
    return next(PICTURES.glob(f"{name}.*")).read_bytes()


def resized(name: str, size: int) -> bytes:
    stream = BytesIO()
    with Image.open(BytesIO(content(name))) as image:
        image.convert("RGBA").resize((size, size)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageSearchServiceStub]:
    with (
        ServerProcess("--data-dir", str(tmp_path_factory.mktemp("data"))) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = ImageSearchServiceStub(channel)
        pictures = [(name, content(name)) for name in (*CATS, *OTHERS)]
        pictures += [(f"banana {size}", resized("banana", size)) for size in SIZES]
        for name, data in pictures:
            stub.AddImage(pb.AddImageRequest(content=data, uri=name))
        yield stub


@pytest.fixture(scope="module")
def ids(service: ImageSearchServiceStub) -> dict[str, str]:
    return {it.uri: it.id for it in service.ListImages(pb.ListImagesRequest()).images}


def names(response: pb.QueryTextResponse | pb.QueryImageResponse | pb.QueryResponse) -> list[str]:
    return [hit.image.uri for hit in response.hits]


def test_like_this_but_not_like_that(service: ImageSearchServiceStub, ids: dict[str, str]) -> None:
    like = pb.QueryTerm(image_id=ids["crying-cat"])
    unlike = pb.QueryTerm(text="cat", weight=-0.5)
    plain = service.Query(pb.QueryRequest(terms=[like], limit=3))
    less = service.Query(pb.QueryRequest(terms=[like, unlike], limit=30))
    assert "grinning-cat" in names(plain)
    assert "crying-cat" not in names(less)
    rank = names(service.Query(pb.QueryRequest(terms=[like], limit=30))).index("black-cat")
    assert names(less).index("black-cat") > rank


def test_an_image_by_its_bytes_and_by_its_id(
    service: ImageSearchServiceStub, ids: dict[str, str]
) -> None:
    by_id = service.QueryImage(pb.QueryImageRequest(id=ids["banana"], limit=5))
    by_content = service.QueryImage(pb.QueryImageRequest(content=content("banana"), limit=6))
    assert names(by_content)[0] == "banana"
    assert names(by_id) == names(by_content)[1:]
    assert set(names(by_id)[:3]) == {f"banana {size}" for size in SIZES}


def test_near_duplicates_and_diversity(service: ImageSearchServiceStub) -> None:
    request = pb.QueryTextRequest(text="a banana", limit=4)
    assert sum("banana" in name for name in names(service.QueryText(request))) == 4
    request.ranking.collapse = True
    collapsed = service.QueryText(request)
    assert sum("banana" in name for name in names(collapsed)) == 1
    assert collapsed.hits[0].near_duplicate_count == 3
    request.ranking.collapse = False
    request.ranking.diversity = 0.5
    diverse = service.QueryText(request)
    assert names(diverse)[0] == names(collapsed)[0]
    assert sum("banana" in name for name in names(diverse)) < 4


def test_many_texts_find_what_each_would_alone(service: ImageSearchServiceStub) -> None:
    """However long the others are, and whatever the encoder batches with what."""
    texts = [name.replace("-", " ") for name in OTHERS]
    texts += ["a picture of " * 10 + "a cat", "", "a photo of a dog that looks at the camera"]
    together = service.QueryTexts(pb.QueryTextsRequest(texts=texts, limit=5))
    assert [result.HasField("error") for result in together.results].count(True) == 1
    for text, result in zip(texts, together.results, strict=True):
        if text:
            alone = service.QueryText(pb.QueryTextRequest(text=text, limit=5))
            assert result.response.token_count == alone.token_count
            expected = [hit.score for hit in alone.hits]
            assert [hit.score for hit in result.response.hits] == pytest.approx(expected, abs=1e-5)


def test_a_template_is_what_a_caller_could_write(service: ImageSearchServiceStub) -> None:
    templates = pb.PromptTemplates(templates=["a photo of a {}"])
    (prompted,) = service.EmbedTexts(
        pb.EmbedTextsRequest(texts=["banana"], prompt_templates=templates)
    ).embeddings
    (written,) = service.EmbedTexts(pb.EmbedTextsRequest(texts=["a photo of a banana"])).embeddings
    assert prompted.values == pytest.approx(written.values, abs=1e-6)
    assert np.linalg.norm(prompted.values) == pytest.approx(1, abs=1e-6)


def test_pages_hold_every_image_once_across_windows(service: ImageSearchServiceStub) -> None:
    """The last test: it fills the collection, with many images of equal scores."""
    info = service.GetServerInfo(pb.GetServerInfoRequest())
    rows = np.random.default_rng(1).standard_normal((600, info.model.embedding_dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    imported = [
        pb.EmbeddedImage(image=convert.image(an_image(n)), embedding=rows[n // 2].tolist())
        for n in range(1200)
    ]
    list(
        service.ImportImages(
            pb.ImportImagesRequest(
                model_fingerprint=info.model.fingerprint, images=imported[start : start + 100]
            )
            for start in range(0, len(imported), 100)
        )
    )
    whole: list[str] = []
    request = pb.QueryTextRequest(text="a cat", limit=90)
    deleted: set[str] = set()
    while True:
        found = service.QueryText(request)
        whole += [hit.image.id for hit in found.hits]
        if not found.next_page_token:
            break
        # What ended the page goes, and something comes in at the top.
        service.DeleteImage(pb.DeleteImageRequest(id=whole[-1]))
        deleted.add(whole[-1])
        (cat,) = service.EmbedTexts(pb.EmbedTextsRequest(texts=["a cat"])).embeddings
        new = pb.EmbeddedImage(
            image=convert.image(an_image(10_000 + len(deleted))), embedding=cat.values
        )
        page = pb.ImportImagesRequest(model_fingerprint=info.model.fingerprint, images=[new])
        list(service.ImportImages(iter([page])))
        request.page_token = found.next_page_token
        request.limit = 90 if request.limit == 300 else 300
    assert len(set(whole)) == len(whole) == 1200 + len(CATS) + len(OTHERS) + len(SIZES)
    assert {str(UUID(int=n)) for n in range(1200)} - deleted <= set(whole)
