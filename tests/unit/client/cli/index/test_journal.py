"""The journal: what it remembers, what it survives, and what it refuses."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli.index.entry import Failure
from clipsearch.cli.index.hash_table import HashTable, hash64
from clipsearch.cli.index.journal import Binding, Journal, JournalError, Record

ABOUT = Binding("pictures", "localhost:50051", "images", "abc")
REFUSED = Failure("INVALID_ARGUMENT", "IMAGE_UNDECODABLE", "is broken", is_final=True)


def stored(number: int, key: str = "") -> Record:
    image_id = f"00000000-0000-0000-0000-{number:012d}"
    return Record(key=key or f"{number}.png", stamp=f"{number}", outcome="added", id=image_id)


def failed(number: int) -> Record:
    key = f"{number}.png"
    return Record(key=key, stamp="s", failure=REFUSED, entry={"key": key, "path": f"/{key}"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pictures.clipsearch-journal"


def test_what_was_written_is_remembered(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        assert journal.recall("1.png") is None
        for record in (stored(1), failed(2), failed(3), stored(3), stored(4, "odd\udce9\n.png")):
            journal.write(record)
    with Journal(file, ABOUT) as journal:
        assert len(journal) == 4
        assert journal.recall("1.png") == stored(1)
        assert journal.recall("2.png") == failed(2)
        assert journal.recall("3.png") == stored(3)
        assert journal.recall("odd\udce9\n.png") == stored(4, "odd\udce9\n.png")
        assert list(journal.failures()) == [failed(2)]


def test_each_result_is_in_the_file_at_once(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
        assert file.read_bytes().count(b"\n") == 2


def test_a_full_disk_is_told_by_the_journals_name(file: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, limit[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                journal.write(stored(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert caught.value.filename == str(file)
    with Journal(file, ABOUT) as journal:
        assert journal.recall("1.png") == stored(1)
        assert journal.recall("2.png") is None


@given(cut=st.integers(1, 400), junk=st.sampled_from([b"", b"\0\0\0\n", b"[]\n", b'{"key":5}\n']))
def test_a_torn_line_is_forgotten(
    cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("torn") / "journal"
    with Journal(file, ABOUT) as journal:
        head = file.stat().st_size
        journal.write(stored(1))
        after_first = file.stat().st_size
        journal.write(stored(2))
    whole = file.read_bytes()
    after_second = len(whole)
    kept = whole[:cut]
    file.write_bytes(kept + junk if kept.endswith(b"\n") else kept)
    with Journal(file, ABOUT) as journal:
        assert (journal.recall("1.png") is not None) == (cut >= after_first)
        assert (journal.recall("2.png") is not None) == (cut >= after_second)
        journal.write(stored(3))
    with Journal(file, ABOUT) as journal:
        assert journal.recall("3.png") == stored(3)
        assert len(journal) == 1 + (cut >= after_first) + (cut >= after_second)
    assert head < after_first


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("source", Binding("drawings", "localhost:50051", "images", "abc")),
        ("server", Binding("pictures", "example.com:443", "images", "abc")),
        ("collection", Binding("pictures", "localhost:50051", "pets", "abc")),
        ("model", Binding("pictures", "localhost:50051", "images", "def")),
    ],
)
def test_a_journal_is_about_one_thing(what: str, other: Binding, file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
    with pytest.raises(JournalError, match=f"about the {what} .*--restart"):
        Journal(file, other)
    with Journal(file, other, restart=True) as journal:
        assert journal.recall("1.png") is None
        journal.write(stored(1))
    with pytest.raises(JournalError):
        Journal(file, ABOUT)


def test_what_is_not_known_is_not_compared(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
    with Journal(file, Binding(None, ABOUT.server), read_only=True) as journal:
        assert journal.recall("1.png") == stored(1)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("content", [b"precious", b"precious\n", b'{"a": 1}\n', b"[1]\n", b"5\n"])
def test_another_programs_file_is_left_alone(content: bytes, restart: bool, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(JournalError, match=r"is not a journal.*--journal"):
        Journal(file, ABOUT, restart=restart)
    assert file.read_bytes() == content


def test_a_newer_journal_is_refused(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
    file.write_bytes(
        file.read_bytes().replace(b'"clipsearch_journal": 1', b'"clipsearch_journal": 2')
    )
    with pytest.raises(JournalError, match="is a newer clipsearch's"):
        Journal(file, ABOUT)


def test_a_journal_is_one_commands(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
        with pytest.raises(JournalError, match="another `clipsearch index` is at work"):
            Journal(file, ABOUT)
    with Journal(file, ABOUT) as journal:
        assert journal.recall("1.png") == stored(1)


def test_a_journal_without_records_leaves_no_file(file: Path) -> None:
    with Journal(file, ABOUT):
        assert file.exists()
        with Journal(file, ABOUT, read_only=True):
            pass
        assert file.exists()
    assert not file.exists()


def test_reading_needs_no_lock_and_makes_no_file(file: Path) -> None:
    with Journal(file, ABOUT, read_only=True) as journal:
        assert journal.recall("1.png") is None
        assert journal.visit("1.png")
    assert not file.exists()
    with Journal(file, ABOUT) as writer:
        writer.write(stored(1))
        with Journal(file, ABOUT, read_only=True) as journal:
            assert journal.recall("1.png") == stored(1)


def test_the_owner_of_an_image_is_one_that_the_source_still_has(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
        assert journal.owner(stored(1).id) is None
        assert journal.visit("1.png")
        assert not journal.visit("1.png")
        assert journal.owner(stored(1).id) == "1.png"
        journal.write(Record(key="copy.png", stamp="", outcome="duplicate", id=stored(1).id))
        assert journal.owner(stored(1).id) == "1.png"


@pytest.mark.parametrize("count", [0, 1, 2, 5, 1000])
def test_the_sample_holds_the_first_and_the_last(count: int, file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(failed(-1))
        for number in range(count):
            journal.write(stored(number))
        journal.write(failed(-2))
        sample = journal.sample_ids()
    ids = [stored(number).id for number in range(count)]
    assert len(sample) == min(count, 8) or count == 5
    assert sample[:1] == ids[:1]
    assert sample[-1:] == ids[-1:]
    assert sample == sorted(set(sample))


def test_a_hash_table_holds_many() -> None:
    table = HashTable()
    keys = [hash64(f"{number}.png") for number in range(100_000)]
    for number, key in enumerate(keys):
        table[key] = number
    assert len(table) == len(keys)
    chance = random.Random(7)
    for number in chance.sample(range(len(keys)), 1000):
        assert table.get(keys[number]) == number
    assert table.get(hash64("another.png")) is None


@given(pairs=st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1))))
def test_a_hash_table_is_a_dict(pairs: list[tuple[int, int]]) -> None:
    table = HashTable()
    # Neighbours of the last slot, so that the search wraps around.
    pairs += [(2**64 - 1 - number, number) for number in range(5)]
    for key, value in pairs:
        table[key] = value
    assert {key: table.get(key) for key, _ in pairs} == dict(pairs)
    assert len(table) == len(dict(pairs))


def test_the_header_tells_people_what_it_is_about(file: Path) -> None:
    with Journal(file, ABOUT) as journal:
        journal.write(stored(1))
    assert json.loads(file.read_text().partition("\n")[0]) == {
        "clipsearch_journal": 1,
        "source": "pictures",
        "server": "localhost:50051",
        "collection": "images",
        "model": "abc",
    }
