"""`clipsearch evaluate` and `linear-probe` on sample pictures: what they say is what brute force
says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import brute_force
from clipsearch import SearchClient
from clipsearch.cli.app import app
from clipsearch_server.testing import ServerProcess

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "demo" / "pictures"
HOSTILE = '<b>"fish" & chips</b>'
TEMPLATE = "a drawing of a {}."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess("--data-dir", str(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="module")
def embedder() -> brute_force.Embedder:
    return brute_force.Embedder(ROOT / "server" / "clipsearch_server" / "demo_model")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """Every fortieth sample picture with its name, some with a second caption; two are alike."""
    with (PICTURES / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file"], row["name"]) for row in csv.DictReader(file)][::40]
    second = [(file, f"{name}, drawn") for file, name in rows[::5]]
    alike = [("flag-france.png", "flag of france"), ("flag-st-martin.png", HOSTILE)]
    return [*rows, *second, *alike]


def write(file: Path, pairs: Sequence[tuple[str, str]], column: str = "image") -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([(column, "caption"), *pairs])
    return file


def run(server: ServerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--server", server.address, *arguments])


def collections(server: ServerProcess) -> list[str]:
    with SearchClient(server.address) as client:
        return [it.name for it in client.list_collections() if it.name.startswith("evaluate-")]


def expected(
    embedder: brute_force.Embedder, pairs: Sequence[tuple[str, str]], template: str = "{}"
) -> tuple[brute_force.Figures, brute_force.Figures]:
    """From captions to images and back; of pictures with the same bytes there is one."""
    contents = {file: (PICTURES / file).read_bytes() for file, _ in pairs}
    unique = {content: file for file, content in contents.items()}
    images = [embedder.image(PICTURES / file) for file in unique.values()]
    own = [list(unique).index(contents[file]) for file, _ in pairs]
    texts = [embedder.text(template.replace("{}", caption)) for _, caption in pairs]
    scores = brute_force.score(texts, images)
    ranks = brute_force.caption_ranks(scores, own), brute_force.image_ranks(scores, own)
    return brute_force.figures(ranks[0]), brute_force.figures(ranks[1])


def assert_figures(found: dict[str, Any], figures: brute_force.Figures) -> None:
    recall = {int(k): it["value"] for k, it in found["recall"].items()}
    assert recall == pytest.approx(figures.recall)
    assert found["median_rank"] == figures.median_rank
    assert found["mean_rank"] == pytest.approx(figures.mean_rank)
    assert found["mrr"]["value"] == pytest.approx(figures.mrr)
    for it in (*found["recall"].values(), found["mrr"]):
        assert it["low"] <= it["value"] <= it["high"]


def test_the_figures_are_those_of_brute_force(
    server: ServerProcess,
    embedder: brute_force.Embedder,
    pairs: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    table = write(tmp_path / "pairs.csv", [(str(PICTURES / file), it) for file, it in pairs])
    report = tmp_path / "report.html"
    options = ("--template", TEMPLATE, "--auto-cut", "--json", "--report", str(report))
    done = run(server, "evaluate", str(table), *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["captions"] == len(pairs)
    assert found["copies"] == 0  # the same bytes are one image
    assert found["images"] == len({(PICTURES / file).read_bytes() for file, _ in pairs})
    plain, templated = found["variants"]
    assert (plain["templates"], templated["templates"]) == ([], [TEMPLATE])
    for variant, template in ((plain, "{}"), (templated, TEMPLATE)):
        to_image, to_text = expected(embedder, pairs, template)
        assert_figures(variant["text_to_image"], to_image)
        assert_figures(variant["image_to_text"], to_text)
    agreement = found["index"]["agreement"]  # a small collection is searched exactly
    assert agreement == {"recall": {"1": 1, "5": 1, "10": 1}, "mean_average_precision": 1}
    assert found["auto_cut"]["captions"] == len(pairs)
    assert collections(server) == []
    check_page(report.read_text(encoding="utf-8"))


def check_page(page: str) -> None:
    """It is well-formed, names nothing outside of itself, and shows pictures and charts."""
    html = ElementTree.fromstring(page.removeprefix("<!doctype html>"))
    text = "".join(html.itertext())
    assert HOSTILE in text or "<b>" not in page
    sources = [it.get("src") or "" for it in html.iter("img")]
    assert len(sources) > 10
    assert all(it.startswith("data:image/") for it in sources)
    assert all(it.get("alt") for it in html.iter("img"))
    assert not list(html.iter("script")) + list(html.iter("link"))
    assert len(list(html.iter("svg"))) == 6
    assert "url(" not in page


def test_what_a_failure_leaves_behind_is_told_and_gone_on_with(
    server: ServerProcess, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    table = write(tmp_path / "pairs.csv", [(str(PICTURES / pairs[0][0]), "x" * 70_000)])
    done = run(server, "evaluate", str(table))
    assert done.exit_code == 2
    (left,) = collections(server)
    assert f"{left} keeps the images" in done.stderr
    write(table, [(str(PICTURES / pairs[0][0]), pairs[0][1])])
    assert run(server, "evaluate", str(table)).exit_code == 0
    assert collections(server) == []


def test_a_collection_that_is_kept_is_gone_on_with(
    server: ServerProcess, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    table = write(tmp_path / "pairs.csv", [(str(PICTURES / file), it) for file, it in pairs[:20]])
    kept = json.loads(run(server, "evaluate", str(table), "--keep", "--json").stdout)
    assert collections(server) == [kept["collection"]]
    with SearchClient(server.address) as client:
        image = next(client.list_images(collection=kept["collection"]))
        client.delete_image(image.id, collection=kept["collection"])
    again = json.loads(run(server, "evaluate", str(table), "--json").stdout)
    assert again["collection"] == kept["collection"]
    assert again["variants"] == kept["variants"]
    assert collections(server) == []


def test_stored_images_are_found_by_what_is_known_of_them(
    server: ServerProcess, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    rows = []
    with SearchClient(server.address) as client:
        client.create_collection("stored")
        for number, (file, caption) in enumerate(pairs[:13]):
            content = (PICTURES / file).read_bytes()
            uri = f"shelf/{file}" if number % 2 else (PICTURES / file).as_uri()
            added = client.add_image(content=content, uri=uri, collection="stored")
            rows.append(((added.image.id, file, uri)[number % 3], caption))
        rows.pop()  # which is found by its content alone
    shutil.copy(PICTURES / pairs[12][0], tmp_path / "renamed.png")
    rows += [("renamed.png", pairs[12][1]), ("nowhere.png", "nothing")]
    table = write(tmp_path / "pairs.csv", rows)
    done = run(server, "evaluate", str(table), "--collection", "stored", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["captions"], found["images"]) == (13, 13)
    assert [it["key"] for it in found["problems"]] == ["nowhere.png"]
    with SearchClient(server.address) as client:
        client.delete_collection("stored", confirm_name="stored")


def test_the_linear_probe(
    server: ServerProcess, embedder: brute_force.Embedder, tmp_path: Path
) -> None:
    classes = {"flag": "flag-*.png", "clock": "*-oclock.png", "face": "*-face.png"}
    test_files: list[tuple[str, Path]] = []
    for name, pattern in classes.items():
        files = sorted(PICTURES.glob(pattern))[:12]
        assert len(files) >= 10
        for number, file in enumerate(files):
            part = "test" if number % 3 == 0 else "train"
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / part / name)
            if part == "test":
                test_files.append((name, file))
    done = run(server, "linear-probe", str(tmp_path), "--template", TEMPLATE, "--json")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["test_images"] == len(test_files)
    assert figures["accuracy"]["value"] > 0.9
    assert [it["name"] for it in figures["classes"]] == sorted(classes)
    for template in ("{}", TEMPLATE):
        names = {it: embedder.text(template.replace("{}", it)) for it in classes}
        right = 0
        for name, file in test_files:
            image = embedder.image(file)
            right += max(names, key=lambda it, image=image: names[it] @ image) == name  # type: ignore[misc]
        assert figures["zero_shot"][template]["value"] == pytest.approx(right / len(test_files))
    assert collections(server) == []
