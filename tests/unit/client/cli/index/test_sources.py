"""Each kind of source: what entries it yields, and that nothing in it ends the run."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.cli.index.columns import ColumnOptions
from clipsearch.cli.index.entry import (
    Entry,
    EntrySource,
    File,
    FormatError,
    Member,
    Url,
    from_json,
    to_json,
)
from clipsearch.cli.index.formats import Format, open_source

ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


def opened(
    path: Path,
    format: Format | None = None,
    *,
    image: str | None = None,
    metadata: tuple[str, ...] | None = None,
    images_dir: Path | None = None,
) -> EntrySource:
    return open_source(path, format, ColumnOptions(image=image, metadata=metadata), images_dir)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def summed_up(entries: Iterable[Entry]) -> list[Any]:
    """(key, metadata) of each entry that can be sent, the reason of each that cannot."""
    return [(it.key, it.metadata) if it.problem is None else it.problem.message for it in entries]


def make_tar(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = opened(tmp_path)
    assert source.count() == 3
    entries = list(source)
    assert [it.key for it in entries] == ["a.JPG", "b.png", "deep/er/c.webp"]
    assert entries[2].origin == File(tmp_path / "deep/er/c.webp")
    assert source.skipped == 1


def test_a_text_file(tmp_path: Path) -> None:
    file = written(
        tmp_path / "list.txt",
        b"\xef\xbb\xbf# pictures\nhttps://example.com/1.png\r\n\n a.png \n/b.png\n"
        b"file:///c%20d.png\ncaf\xe9.png\n",
    )
    source = opened(file)
    entries = list(source)
    assert [it.origin for it in entries] == [
        Url("https://example.com/1.png"),
        File(tmp_path / "a.png"),
        File(Path("/b.png")),
        File(Path("/c d.png")),
        File(tmp_path / "caf\udce9.png"),
    ]
    assert entries[1].key == "a.png"
    assert all(it.problem is None for it in entries)


@pytest.mark.parametrize(
    ("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.csv", "|"), ("t.tsv", "\t")]
)
def test_a_table(name: str, delimiter: str, tmp_path: Path) -> None:
    rows = [
        ["id", "file_name", "title", "year"],
        [ID, "a.png", '"a cat,\nblack"', "2020"],
        ["", "b.png", "", ""],
        ["12", "c.png", "not a UUID", ""],
        [ID.upper(), "", "nowhere", ""],
        ["", "d.png", "x", "y", "z"],
        ["", "e.png"],
    ]
    file = written(tmp_path / name, "\n".join(delimiter.join(row) for row in rows))
    source = opened(file)
    assert source.count() == 7
    entries = list(source)
    assert summed_up(entries) == [
        ("a.png", {"title": "a cat,\nblack", "year": "2020"}),
        ("b.png", {}),
        "the id '12' is not a UUID",
        "line 6 has nothing in the column file_name",
        "line 7 has 5 cells, and the table 4 columns",
        ("e.png", {}),
    ]
    assert (entries[0].id, entries[0].origin) == (ID, File(tmp_path / "a.png"))


def test_an_id_that_is_no_uuid_is_metadata(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", f"id,url\n1,https://a.example/1\n{ID},https://a.example/2\n")
    assert [(it.id, it.metadata) for it in opened(file)] == [("", {"id": "1"}), ("", {"id": ID})]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('1.png,"open\n2.png,b', "line 3 cannot be read from line 2 on: unexpected end of data"),
        ('1.png,"open\n2.png,"b"', "line 3 cannot be read from line 2 on: ',' expected after '\"'"),
        ('1.png,"a" b', "line 2 cannot be read: ',' expected after '\"'"),
    ],
)
def test_what_a_stray_quote_swallows_is_told(rows: str, told: str, tmp_path: Path) -> None:
    entries = opened(written(tmp_path / "t.csv", f"path,title\n{rows}"))
    assert summed_up(entries) == [told]


def test_a_table_goes_on_behind_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    entries = opened(written(tmp_path / "t.csv", 'path,title\n1.png,"a" b\n2.png,c\n'))
    assert summed_up(entries)[1:] == [("2.png", {"title": "c"})]


def test_columns_may_be_chosen(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "where,uri,a,b,url\nx.png,shelf:1,1,2,https://a.example\n")
    (entry,) = opened(file, image="where", metadata=("b",))
    assert (entry.key, entry.uri, entry.metadata) == ("x.png", "shelf:1", {"b": "2"})
    (entry,) = opened(file)
    assert (entry.key, entry.uri) == ("https://a.example", "shelf:1")
    assert entry.metadata == {"where": "x.png", "a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "image", "why"),
    [
        ("a,b\n1,2\n", None, "has no column that tells where the images are.*--image-column"),
        ("a,b\n1,2\n", "c", "has no column 'c'; it has a, b"),
        ("", None, "it has none"),
    ],
)
def test_a_table_of_no_images(text: str, image: str | None, why: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=why):
        opened(written(tmp_path / "t.csv", text), image=image)


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps({"url": "https://a.example/1", "tags": ["x", {"y": 1}], "no": None}),
        "",
        "{broken",
        "[1]",
        json.dumps({"title": "nowhere"}),
        json.dumps({"path": "b.png", "id": ID, "score": float("nan"), "n": 0.5}),
        json.dumps({"path": 5}),
        '{"path": "c.png", "n": 1e999}',
        json.dumps({"path": "d.png", "\ud800": 1}),
        '{"path": "e.png", "deep": ' + 20 * "[" + 20 * "]" + "}",
        "[" * 100_000,
        json.dumps({"path": "f.png", "text": "x" * 300_000}),
        json.dumps({"path": "g.png", "text": "x" * 2_000_000}),
        json.dumps({"path": "last.png"}),
    ]
    entries = list(opened(written(tmp_path / "t.jsonl", "\n".join(lines))))
    assert summed_up(entries) == [
        ("https://a.example/1", {"tags": ["x", {"y": 1}]}),
        "line 3 is not JSON",
        "line 4 is not a JSON object",
        entries[3].problem and entries[3].problem.message,
        ("b.png", {"n": 0.5}),
        "the column path holds no URL or path in line 7",
        "the metadata holds a number that is none, or is more than 16 levels deep",
        "is not UTF-8",
        "the metadata holds a number that is none, or is more than 16 levels deep",
        "line 11 is not JSON",
        "has 300.0 kB of metadata",
        "line 13 is not JSON",
        ("last.png", {}),
    ]
    assert "line 5 has no column that tells" in summed_up(entries)[3]
    assert entries[4].id == ID


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image_url": ["https://a.example/1", None, "https://a.example/3"],
            "id": [ID, None, None],
            "price": [Decimal("1.50"), Decimal(2), None],
            "when": pa.array([0, 1, None], pa.timestamp("s")),
            "tags": [["a"], [], None],
            "thumbnail": [b"\0", b"\1", b"\2"],
        }
    )
    file = tmp_path / "t.parquet"
    pq.write_table(table, file, row_group_size=2)
    source = opened(file)
    assert source.count() == 3
    entries = list(source)
    assert summed_up(entries) == [
        (
            "https://a.example/1",
            {"price": 1.5, "when": "1970-01-01T00:00:00", "tags": ["a"]},
        ),
        "row 2 has nothing in the column image_url",
        ("https://a.example/3", {}),
    ]
    assert entries[0].id == ID


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    names = [f"https://a.example/{number}" for number in range(2000)]
    pq.write_table(
        pa.table({"url": names}),
        file,
        row_group_size=1000,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content = bytearray(file.read_bytes())
    content[content.index(b"example/500")] ^= 1
    file.write_bytes(content)
    entries = list(opened(file))
    assert [it.key for it in entries if it.problem is None] == names[1000:]
    assert [it.key for it in entries if it.problem] == ["row group 1"]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="is not a Parquet file, or is damaged"):
        opened(file)


def test_parquet_of_bytes(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"\x89PNG"]}), file)
    with pytest.raises(FormatError, match="holds no URLs or paths in the column 'image'"):
        opened(file)


def test_parquet_that_holds_no_paths(tmp_path: Path) -> None:
    """As data sets on Hugging Face are, whose images lie in the file."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"\x89PNG", "path": "1.png"}]}), file)
    with pytest.raises(FormatError, match="holds no URLs or paths in the column 'image'"):
        opened(file)
    pq.write_table(pa.table({"image": pa.array(["1.png"]).dictionary_encode()}), file)
    assert summed_up(opened(file)) == [("1.png", {})]


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    columns = [pa.array(["1.png"]), pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.table(columns, names=["url", "title", "title"]), file)
    with pytest.raises(FormatError, match="has 2 columns 'title'"):
        opened(file)


COCO = {
    "images": [
        {"id": 1, "file_name": "1.jpg", "coco_url": "http://a.example/1.jpg", "width": 5},
        {"id": 2, "file_name": "2.jpg", "flickr_url": "http://b.example/2.jpg"},
        {"id": 3, "file_name": "3.jpg"},
        {"id": 4},
        "nonsense",
    ],
    "annotations": [
        {"image_id": 1, "caption": "a cat"},
        {"image_id": 1, "caption": "a black cat"},
        {"image_id": 2, "category_id": 17},
        {"image_id": 2, "category_id": 17},
        {"image_id": 2, "category_id": 99},
        {"image_id": [], "caption": "nobody's"},
        5,
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": []}],
}


def test_coco(tmp_path: Path) -> None:
    file = written(tmp_path / "captions.json", json.dumps(COCO))
    (tmp_path / "3.jpg").touch()
    source = opened(file)
    assert source.count() == 5
    entries = list(source)
    assert summed_up(entries) == [
        ("http://a.example/1.jpg", {"coco_id": 1, "captions": ["a cat", "a black cat"]}),
        ("http://b.example/2.jpg", {"coco_id": 2, "categories": ["cat"]}),
        ("3.jpg", {"coco_id": 3}),
        "image 4 has no coco_url, flickr_url or file_name",
        "image 5 is not a JSON object",
    ]
    assert [it.origin for it in entries[:3]] == [
        Url("http://a.example/1.jpg"),
        Url("http://b.example/2.jpg"),
        File(tmp_path / "3.jpg"),
    ]
    local = list(opened(file, images_dir=tmp_path / "images"))
    assert local[0].key == "1.jpg"
    assert local[0].origin == File(tmp_path / "images" / "1.jpg")


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("noname", "w")]
)
def test_a_webdataset(name: str, mode: str, tmp_path: Path) -> None:
    members = {
        "a/0.jpg": b"image 0",
        "a/0.json": b'{"width": 5}',
        "a/0.txt": b"a cat\n",
        "a/0.cls": b"7",
        "a/1.txt": b"before the image",
        "a/1.left.png": b"image 1",
        "a/1.right.png": b"image 2",
        "a/1.npy": b"numbers",
        "2.webp": b"image 3",
        "2.json": b"{broken",
        "3.cls": b"nothing to see",
        "4.json": b'"text"',
        "4.PNG": b"image 4",
    }
    file = make_tar(tmp_path / name, members, mode)
    source = opened(file)
    entries = list(source)
    assert summed_up(entries) == [
        ("a/0.jpg", {"width": 5, "caption": "a cat", "class": 7}),
        ("a/1.left.png", {"caption": "before the image"}),
        ("a/1.right.png", {"caption": "before the image"}),
        "2.json cannot be read as json",
        ("4.PNG", {"json": "text"}),
    ]
    assert entries[1].origin == Member(file, "a/1.left.png", 7, 1_700_000_000)
    assert isinstance(entries[1].origin, Member)
    assert entries[1].origin.content == b"image 1"
    assert source.skipped == 1


def test_a_folder_of_tars_with_one_that_is_cut_off(tmp_path: Path) -> None:
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", {"0.jpg": bytes(20_000), "1.jpg": bytes(20_000)})
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:30_000])
    (tmp_path / "2.tar").rename(tmp_path / "2.tar.gz")  # its name does not matter
    keys = [(it.key, it.problem is None) for it in opened(tmp_path)]
    assert keys == [
        *(("0.tar/0.jpg", True), ("0.tar/1.jpg", True)),
        *(("1.tar/0.jpg", True), ("1.tar", False)),
        *(("2.tar.gz/0.jpg", True), ("2.tar.gz/1.jpg", True)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.dat", b'{"url": "https://a.example"}\n{"url": "b"}\n', "JsonLines"),
        ("a.json", b'{"url": "https://a.example"}\n', "JsonLines"),
        ("a.json", b'{"images": []}', "Coco"),
        ("a.json", b'{\n"images": []}', "Coco"),
        ("list", b"https://a.example\n", "TextList"),
        ("empty", b"", "TextList"),
    ],
)
def test_a_kind_is_told_by_the_content(
    name: str, content: bytes, format: str, tmp_path: Path
) -> None:
    assert type(opened(written(tmp_path / name, content))).__name__ == format


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n", "is an image: `clipsearch add` adds it"),
        ("a.bin", b"\0\1\2", "--format"),
        ("a.json", b"[1]", "no COCO annotations file"),
        ("a.json", b"{", "is not JSON"),
        ("a.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
def test_what_is_no_source(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=why):
        opened(written(tmp_path / name, content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
LINES = st.lists(
    st.binary(max_size=40)
    | st.text(alphabet=',;"\n\r\t\0 aé\ud800', max_size=40).map(
        lambda text: text.encode(errors="surrogatepass")
    )
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"url": JSON, "id": JSON, "x": JSON}).map(
        lambda value: json.dumps(value).encode()
    ),
    max_size=6,
).map(b"\n".join)


def read_all(file: Path, format: Format) -> None:
    """What can be read is read, and could be sent; and a file of failures carries it."""
    source = opened(file, format)
    source.count()
    for entry in source:
        assert entry.problem or entry.origin
        json.dumps(entry.metadata, allow_nan=False, ensure_ascii=False).encode()
        again = from_json(json.loads(json.dumps(to_json(entry))))
        assert (again.key, again.id, again.uri) == (entry.key, entry.id, entry.uri)
        assert again.metadata == entry.metadata
    with file.open("rb") as stream:
        assert stream.readable()  # nothing was moved or removed


@given(rows=LINES)
def test_no_table_ends_the_run(rows: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("odd")
    for format in (Format.CSV, Format.TSV):
        read_all(written(folder / "t", b"url,id,x\turl\n" + rows), format)
    read_all(written(folder / "t", rows), Format.JSONL)
    read_all(written(folder / "t", rows), Format.TEXT)


@given(images=JSON, annotations=JSON, categories=JSON)
def test_no_annotations_end_the_run(
    images: Any, annotations: Any, categories: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = {"images": [images], "annotations": [annotations], "categories": categories}
    folder = tmp_path_factory.mktemp("odd")
    read_all(written(folder / "c.json", json.dumps(content)), Format.COCO)


@settings(max_examples=200)
@given(data=st.data())
def test_no_tar_ends_the_run(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("odd")
    members = {"0.jpg": b"image", "0.json": b'{"a": 1}', "1.jpg": b"more"}
    content = bytearray(make_tar(folder / "t.tar", members).read_bytes()[:5_000])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    compressed = gzip.compress(bytes(content))
    if data.draw(st.booleans()):
        compressed = compressed[: data.draw(st.integers(0, len(compressed)))]
    for odd in (bytes(content), compressed):
        read_all(written(folder / "t.tar", odd), Format.WEBDATASET)
