"""What is read as captions of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsearch.cli.evaluate.pairs import Pairs, read_pairs
from clipsearch.cli.index.entry import File, FormatError, Url


def read(file: Path, **options: str | Path) -> Pairs:
    given = {"images_dir": None, "image_column": None, "caption_column": None, **options}
    return read_pairs(file, None, **given)  # type: ignore[arg-type]


def captioned(pairs: Pairs) -> list[tuple[str, str]]:
    return [
        (pairs.images[place].key, caption)
        for caption, place in zip(pairs.captions, pairs.image_of, strict=True)
    ]


def test_coco_annotations(tmp_path: Path) -> None:
    file = tmp_path / "captions_val2017.json"
    content = {
        "images": [
            {"id": 9, "file_name": "9.jpg", "coco_url": "http://images/9.jpg"},
            {"id": 4, "file_name": "4.jpg", "coco_url": "http://images/4.jpg"},
            {"id": 5, "file_name": "5.jpg", "coco_url": "http://images/5.jpg"},
        ],
        "annotations": [
            {"image_id": 4, "id": 1, "caption": "A bus. "},
            {"image_id": 9, "id": 2, "caption": "A cat."},
            {"image_id": 4, "id": 3, "caption": "A red bus."},
            {"image_id": 4, "id": 4, "caption": "  "},
        ],
    }
    file.write_text(json.dumps(content))
    pairs = read(file)
    assert [it.origin for it in pairs.images] == [Url(f"http://images/{n}.jpg") for n in (9, 4, 5)]
    assert captioned(pairs) == [
        ("http://images/9.jpg", "A cat."),
        ("http://images/4.jpg", "A bus."),
        ("http://images/4.jpg", "A red bus."),
    ]
    folder = read(file, images_dir=tmp_path)
    assert [it.origin for it in folder.images] == [File(tmp_path / f"{n}.jpg") for n in (9, 4, 5)]
    assert folder.problems == ()


def test_rows_of_one_image_are_its_captions(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("image,caption\na.png,one\nb.png,two\na.png,three\nc.png,\n,nothing\n")
    pairs = read(file)
    assert [it.key for it in pairs.images] == ["a.png", "b.png", "c.png"]
    assert captioned(pairs) == [("a.png", "one"), ("b.png", "two"), ("a.png", "three")]
    (problem,) = pairs.problems
    assert problem.key == "line 6"


def test_json_lines_with_several_captions(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"image": "a.png", "caption": ["one", "two", 3]}\n{"image": "b.png", "caption": "x"}\n'
    )
    assert captioned(read(file)) == [("a.png", "one"), ("a.png", "two"), ("b.png", "x")]


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("where,what,caption\na.png,wanted,other\n")
    pairs = read(file, image_column="where", caption_column="what")
    assert captioned(pairs) == [("a.png", "wanted")]


def test_the_sample_pictures_have_names_for_captions() -> None:
    pairs = read(Path(__file__).parents[5] / "demo" / "pictures" / "pictures.csv")
    assert len(pairs.images) == len(pairs.captions) == 1884
    assert captioned(pairs)[3] == ("a-button-blood-type.png", "A button (blood type)")


@pytest.mark.parametrize("name", ["pairs.csv", "pictures"])
def test_without_captions_there_is_nothing_to_evaluate(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.csv").write_text("image,label\na.png,one\n")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FormatError, match=r"has no captions.*--caption-column"):
        read(tmp_path / name)
