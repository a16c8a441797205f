from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grpc_status import rpc_status
from typer.testing import Result

from clipsearch import Collection
from clipsearch._convert.transfer import embedded_image
from clipsearch.cli.dump_file import DumpError, DumpReader, DumpWriter
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import (
    ScriptedService,
    export_pages,
    make_embedded,
    make_status,
)

Run = Callable[..., Result]

DIM = 256  # as the scripted server says
IMAGES = 30
COLUMNS = [
    *("id", "url", "uri", "metadata", "sha256", "media_type", "width_px", "height_px"),
    *("size_bytes", "create_time", "update_time", "duplicate_of", "embedding"),
]


def an_image(number: int) -> pb.EmbeddedImage:
    message = make_embedded(number, DIM, url=f"https://example.com/{number}?ä=\0")
    message.image.duplicate_of = message.image.id if number % 3 else ""
    message.image.metadata.update({"n": number / 10, "zero": -0.0, "huge": 1e300, "t": ["ü", None]})
    return message


def exporting(count: int, *, fingerprint: str = "abc") -> Any:
    """A whole export, in pages of seven."""
    images = [an_image(number) for number in range(count)]
    pages = [images[start : start + 7] for start in range(0, count, 7)]
    return lambda request, context: export_pages(*pages, fingerprint=fingerprint)


def importing(seen: list[Any]) -> Any:
    def keep(requests: Any, _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            seen.extend(request.images)
            yield pb.ImportImagesResponse(image_count=len(seen))

    return keep


@pytest.fixture
def dumped(service: ScriptedService, run: Run, tmp_path: Path) -> Path:
    """A dump of images 0 to IMAGES."""
    service.answer("ExportImages", exporting(IMAGES))
    file = tmp_path / "dumped.parquet"
    result = run("dump", str(file))
    assert result.exit_code == 0, result.stderr
    return file


def rewrite(file: Path, table: pa.Table) -> str:
    """Writes what another program made of a dump; returns the file's name."""
    pq.write_table(table, file)
    return str(file)


def only_line(result: Result) -> str:
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("clipsearch: "))
    assert "Traceback" not in result.stderr
    return line


def test_what_was_dumped_is_loaded_as_it_was(
    service: ScriptedService, run: Run, dumped: Path
) -> None:
    seen: list[Any] = []
    service.answer("ImportImages", importing(seen))
    result = run("load", str(dumped), "--collection", "pets")
    assert result.exit_code == 0, result.stderr
    assert f"{IMAGES} images loaded, " in result.stdout
    assert seen == [an_image(number) for number in range(IMAGES)]


def test_other_programs_can_read_a_dump(dumped: Path) -> None:
    """docs/dump-format.md promises these names and types."""
    table = pq.read_table(dumped)
    assert table.column_names == COLUMNS
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), DIM)
    assert table.schema.field("create_time").type == pa.timestamp("us", tz="UTC")
    assert table.schema.metadata == {
        b"clipsearch.format_version": b"1",
        b"clipsearch.model_id": b"demo",
        b"clipsearch.fingerprint": b"abc",
        b"clipsearch.embedding_dim": b"256",
    }
    row = table.slice(4, 1).to_pylist()[0]
    expected = an_image(4)
    assert json.loads(row["metadata"])["n"] == 0.4
    assert row["embedding"] == list(expected.embedding)
    assert row["create_time"].timestamp() == expected.image.create_time.ToMicroseconds() / 1e6
    metadata = pq.ParquetFile(dumped).metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_are_bounded(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    images = [make_embedded(number, DIM) for number in range(5000)]
    service.answer("ExportImages", lambda request, context: export_pages(images))
    file = tmp_path / "many.parquet"
    assert run("dump", str(file)).exit_code == 0
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [4096, 904]
    seen: list[Any] = []
    service.answer("ImportImages", importing(seen))
    assert run("load", str(file)).exit_code == 0
    assert seen == images


def test_an_empty_collection_is_dumped_and_loaded(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("ExportImages", lambda request, context: export_pages([]))
    service.answer("ImportImages", importing([]))
    file = tmp_path / "empty.parquet"
    assert run("dump", str(file)).stdout.startswith("0 images dumped")
    assert run("load", str(file)).stdout.startswith("0 images loaded")


def test_json(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("ExportImages", exporting(3))
    service.answer("ImportImages", importing([]))
    file = tmp_path / "a.parquet"
    for command, outcome in (("dump", "dumped"), ("load", "loaded")):
        facts = json.loads(run(command, str(file), "--json").stdout)
        assert facts.pop("seconds") >= 0
        size_bytes = file.stat().st_size
        assert facts == {"outcome": outcome, "file": str(file), "images": 3, "bytes": size_bytes}


def test_a_file_is_not_replaced_unless_forced(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("ExportImages", exporting(3))
    file = tmp_path / "a.parquet"
    file.write_text("precious")
    result = run("dump", str(file))
    assert result.exit_code == 2
    assert "is there already; --force replaces it" in only_line(result)
    assert file.read_text() == "precious"
    assert run("dump", str(file), "--force").exit_code == 0
    assert pq.read_table(file).num_rows == 3


def test_a_dump_that_breaks_off_leaves_nothing(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    gone = make_status(grpc.StatusCode.UNAVAILABLE, "going down", "INDEX_UNAVAILABLE")

    def break_off(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from export_pages([make_embedded(number, DIM) for number in range(5000)])
        context.abort_with_status(rpc_status.to_status(gone))

    service.answer("ExportImages", break_off)
    file = tmp_path / "a.parquet"
    file.write_text("precious")
    result = run("dump", str(file), "--force")
    assert result.exit_code == 3
    assert "going down" in only_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert file.read_text() == "precious"


def test_ctrl_c_leaves_no_dump(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    """In a process of its own, since the signal is the point."""
    process: subprocess.Popen[str]

    def interrupt(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from export_pages([make_embedded(number, DIM) for number in range(10)])
        process.send_signal(signal.SIGINT)
        while context.is_active():
            yield pb.ExportImagesResponse()

    service.answer("ExportImages", interrupt)
    command = ["--server", service.target, "dump", str(tmp_path / "a.parquet")]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipsearch", *command], stderr=subprocess.PIPE, text=True
    )
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(service: ScriptedService, run: Run, tmp_path: Path) -> None:
    service.answer("ExportImages", exporting(3))
    for command in ("dump", "load"):
        result = run(command, str(tmp_path / "no" / "a.parquet"))
        assert result.exit_code == 2
        assert only_line(result).endswith("a.parquet: No such file or directory")


def test_a_server_that_changes_its_model_is_not_dumped(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("ExportImages", exporting(3, fingerprint="def"))
    result = run("dump", str(tmp_path / "a.parquet"))
    assert result.exit_code == 2
    assert "changed its model" in only_line(result)


def test_another_models_dump_is_refused_before_anything_is_sent(
    service: ScriptedService, run: Run, dumped: Path
) -> None:
    service.answer(
        "GetCollection",
        pb.GetCollectionResponse(
            collection=pb.Collection(name="images-1", model_id="big", model_fingerprint="xyz")
        ),
    )
    result = run("load", str(dumped))
    assert result.exit_code == 4
    line = only_line(result)
    assert all(word in line for word in ("demo", "abc", "big", "xyz"))
    assert service.requests["ImportImages"] == []


def test_a_load_that_fails_says_how_far_it_came(
    service: ScriptedService, run: Run, tmp_path: Path
) -> None:
    service.answer("ExportImages", exporting(200))
    file = tmp_path / "a.parquet"
    run("dump", str(file))
    bad = make_status(grpc.StatusCode.INVALID_ARGUMENT, "images[3].image.id: no", "INVALID_FIELD")

    def refuse_the_second(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.ImportImagesResponse(image_count=len(next(requests).images))
        next(requests)
        context.abort_with_status(rpc_status.to_status(bad))

    service.answer("ImportImages", refuse_the_second)
    result = run("load", str(file))
    assert result.exit_code == 2
    assert "64 images loaded" in result.stdout
    assert "images[3].image.id" in only_line(result)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"just text", bytes(range(256)) * 20])
def test_what_is_no_parquet_file(run: Run, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(content)
    result = run("load", str(file))
    assert result.exit_code == 2
    assert "is not a Parquet file, or is damaged" in only_line(result)


def test_no_damaged_byte_changes_an_image_or_hides_one(tmp_path: Path) -> None:
    """Of the names of the model, which have no checksum, the fingerprint is compared anyway."""
    collection = Collection(
        name="images-1",
        image_count=5,
        is_default=True,
        model_id="demo",
        model_fingerprint="abc",
        embedding_dim=4,
    )
    file = tmp_path / "a.parquet"
    with DumpWriter(file, collection) as writer:
        for number in range(5):
            writer.write(embedded_image(make_embedded(number), "abc"))
    images = read(file)
    content = file.read_bytes()
    refused = 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert read(file) == images, place
        except DumpError:
            refused += 1
    assert refused > len(content) / 2


def read(file: Path) -> list[Any]:
    with DumpReader(file) as reader:
        return [(it.image, it.embedding) for it in reader]


def test_a_damaged_dump_is_told_in_a_line(service: ScriptedService, run: Run, dumped: Path) -> None:
    content = bytearray(dumped.read_bytes())
    content[len(content) // 2] ^= 1  # in the embeddings, which are most of it
    dumped.write_bytes(content)
    seen: list[Any] = []
    service.answer("ImportImages", importing(seen))
    result = run("load", str(dumped))
    assert result.exit_code == 2
    assert "damaged" in only_line(result)
    assert seen == []


def test_a_dump_cut_short_is_noticed(run: Run, dumped: Path) -> None:
    dumped.write_bytes(dumped.read_bytes()[:-100])
    assert "damaged" in only_line(run("load", str(dumped)))


def test_columns_that_are_not_there_are_named(run: Run, dumped: Path) -> None:
    table = pq.read_table(dumped)
    result = run("load", rewrite(dumped, table.drop_columns(["uri", "embedding"])))
    assert result.exit_code == 2
    assert only_line(result).endswith("lacks the columns uri, embedding")


def test_another_programs_file_is_told_apart(run: Run, dumped: Path) -> None:
    table = pq.read_table(dumped)
    result = run("load", rewrite(dumped, table.replace_schema_metadata({})))
    assert result.exit_code == 2
    assert "not one of `clipsearch dump`" in only_line(result)
    newer = {**(table.schema.metadata or {}), b"clipsearch.format_version": b"2"}
    line = only_line(run("load", rewrite(dumped, table.replace_schema_metadata(newer))))
    assert "format version 2" in line
    dimless = {**(table.schema.metadata or {}), b"clipsearch.embedding_dim": b"x"}
    line = only_line(run("load", rewrite(dumped, table.replace_schema_metadata(dimless))))
    assert "how many dimensions" in line


def test_columns_of_another_order_and_type_are_taken(
    service: ScriptedService, run: Run, dumped: Path
) -> None:
    table = pq.read_table(dumped)
    wider = {
        "create_time": pa.timestamp("ns", tz="UTC"),
        "width_px": pa.int64(),
        "embedding": pa.list_(pa.float64()),
    }
    for name, type_ in wider.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(type_))
    table = table.append_column("mine", pa.nulls(IMAGES)).select(["mine", *reversed(COLUMNS)])
    seen: list[Any] = []
    service.answer("ImportImages", importing(seen))
    result = run("load", rewrite(dumped, table))
    assert result.exit_code == 0, result.stderr
    assert seen == [an_image(number) for number in range(IMAGES)]


def test_a_dump_from_before_there_were_links_is_loaded(
    service: ScriptedService, run: Run, dumped: Path
) -> None:
    seen: list[Any] = []
    service.answer("ImportImages", importing(seen))
    table = pq.read_table(dumped).drop_columns(["duplicate_of"])
    result = run("load", rewrite(dumped, table))
    assert result.exit_code == 0, result.stderr
    assert len(seen) == IMAGES
    assert not any(message.image.duplicate_of for message in seen)


@pytest.mark.parametrize(
    ("column", "values", "word"),
    [
        ("uri", pa.nulls(IMAGES, pa.string()), "the column uri has empty rows"),
        ("metadata", pa.array(["[]"] * IMAGES), "not a JSON object"),
        ("metadata", pa.array(["{"] * IMAGES), "damaged"),
        ("width_px", pa.array(["wide"] * IMAGES), "damaged"),
        ("embedding", pa.array([[1.0, 2.0]] * IMAGES), "damaged"),
        ("embedding", pa.array([[None] * DIM] * IMAGES, pa.list_(pa.float32())), "empty numbers"),
    ],
)
def test_rows_that_make_no_sense_are_told_in_a_line(
    service: ScriptedService, run: Run, dumped: Path, column: str, values: pa.Array, word: str
) -> None:
    table = pq.read_table(dumped)
    place = table.schema.get_field_index(column)
    service.answer("ImportImages", importing([]))
    result = run("load", rewrite(dumped, table.set_column(place, column, values)))
    assert result.exit_code == 2
    assert word in only_line(result)


@pytest.mark.parametrize("command", ["dump", "load"])
def test_without_pyarrow_the_command_says_what_to_install(command: str, tmp_path: Path) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; import clipsearch; clipsearch.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(tmp_path / "a.parquet")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "clipsearch: dump and load need pyarrow; install it with: pip install pyarrow\n"
    )
