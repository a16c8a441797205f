"""The file of keys: what it may say, and the command that writes it."""

from __future__ import annotations

import errno
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch_server import keys_command
from clipsearch_server.callers import Caller, Quota, Scope
from clipsearch_server.errors import StartupError
from clipsearch_server.identity.api_keys import hash_of, new_key
from clipsearch_server.identity.key_editing import add_key, revoke_keys
from clipsearch_server.identity.key_file import KeyEntry, parse, read_key_ring

WRITTEN_BY_HAND = f"""\
# Ours.
[[keys]]
name = "web"  # the shop
scopes = ["read"]
sha256 = "{"a" * 64}"

# Theirs.
[[certificates]]
name = "indexer"
subject = "indexer.internal"
scopes = ["read", "write"]
max_in_flight = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def keys(*arguments: str, file: Path) -> int:
    return keys_command.main([*arguments, "--file", str(file)])


def test_a_new_key_opens_and_is_kept_nowhere(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--scopes", "read,write", "--expires", "90d", "--max-in-flight", "8")
    assert keys("new", "web", *options, "--calls-per-second", "2.5", file=file) == 0
    written = capsys.readouterr()
    key = written.out.strip()
    assert re.fullmatch(r"cs_[\w-]{43}", key)
    assert key not in written.err
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = read_key_ring(file).find_key(key)
    assert known is not None
    assert known.caller == Caller(
        "web", frozenset({Scope.READ, Scope.WRITE}), Quota(max_in_flight=8, calls_per_second=2.5)
    )
    assert known.expires is not None
    assert timedelta(days=89) < known.expires - datetime.now(UTC) <= timedelta(days=90)
    assert not known.has_expired(known.expires - timedelta(seconds=1))
    assert known.has_expired(known.expires)
    assert read_key_ring(file).find_key(f"{key[:-1]}~") is None


def test_keys_are_listed_and_revoked_by_name_or_one_by_one(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(WRITTEN_BY_HAND)
    keys("new", "web", "--scopes", "read", "--expires", "12h", file=file)
    key = capsys.readouterr().out.strip()
    keys("list", file=file)
    by_hand, by_command, certificate = capsys.readouterr().out.splitlines()
    assert by_hand == f"{'a' * 12}  web  read"
    assert by_command.startswith(f"{hash_of(key)[:12]}  web  read  expires ")
    assert certificate == "certificate   indexer  read,write  subject indexer.internal"
    keys("revoke", "web", "--id", "a" * 12, file=file)
    assert capsys.readouterr().out == f"revoked {'a' * 12} of web\n"
    ring = read_key_ring(file)
    assert ring.find_key(key) is not None
    keys("revoke", "web", file=file)
    assert read_key_ring(file).find_key(key) is None
    caller = read_key_ring(file).find_certificate(["other", "indexer.internal"])
    assert caller == Caller("indexer", frozenset({Scope.READ, Scope.WRITE}), Quota(4))
    with pytest.raises(StartupError, match="has no such key"):
        keys("revoke", "web", file=file)


def test_an_id_that_is_empty_is_not_every_key_of_the_name(file: Path) -> None:
    file.write_text(WRITTEN_BY_HAND)
    with pytest.raises(SystemExit) as caught:
        keys("revoke", "web", "--id", "", file=file)
    assert caught.value.code == 2
    assert file.read_text() == WRITTEN_BY_HAND


def written(name: str) -> str:
    """A table of a key, with remarks in it."""
    return (
        f'[[keys]]  # of {name}\nname = "{name}"\n  # reads\nscopes = [\n  # only\n  "read",\n]\n'
        f'\nsha256 = "{hash_of(name)}"\n'
    )


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("# All.\n\n# Old.\n", "\n# New.\n{new}", "# All.\n\n# Old.\n\n# New.\n{new}"),
        ("# Old.\n", "# A # b.\n\n  # [1]\n{new}", "# Old.\n# A # b.\n\n  # [1]\n{new}"),
        ("{new}\n# Old.\n", "\n# The end.", "{new}\n# Old.\n\n# The end."),
        ("# Old.\n", "\n{new}", "# Old.\n{new}"),
        ("{new}\n", "", "{new}\n"),
    ],
    ids=["at the top", "without a gap", "at the end", "none between", "none"],
)
def test_what_is_remarked_outside_of_a_revoked_key_stays(
    file: Path, before: str, after: str, left: str
) -> None:
    before, after, left = (it.format(new=written("new")) for it in (before, after, left))
    file.write_text(before + written("old") + after)
    (new,) = (it for it in parse(file.read_text(), file).keys if it.name == "new")
    revoke_keys(file, "old")
    assert file.read_text() == left
    assert parse(left, file).keys == (new,)


ENTRIES = st.builds(
    KeyEntry,
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z"),
    sha256=st.from_regex(r"\A[0-9a-f]{64}\Z"),
    scopes=st.frozensets(st.sampled_from(Scope), min_size=1),
    created=st.none() | st.datetimes(timezones=st.just(UTC)),
    expires=st.none() | st.datetimes(timezones=st.just(UTC)),
    max_in_flight=st.none() | st.integers(1, 2**31),
    calls_per_second=st.none() | st.floats(1e-6, 1e9),
)


@settings(max_examples=20, deadline=None)
@given(entry=ENTRIES)
def test_what_is_added_is_read_and_what_is_revoked_leaves_the_rest_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, entry: KeyEntry
) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(WRITTEN_BY_HAND)
    add_key(file, entry)
    content = parse(file.read_text(), file)
    assert content.keys[1:] == (entry,)
    assert revoke_keys(file, entry.name, entry.sha256) == [entry]
    assert file.read_text().rstrip() == WRITTEN_BY_HAND.rstrip()


def test_a_link_and_the_modes_of_an_operator_stay(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "real.toml"
    target.write_text(WRITTEN_BY_HAND)
    target.chmod(0o640)
    file.symlink_to(target)
    assert keys("new", "web", "--scopes", "admin", file=file) == 0
    assert file.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.toml", "real.toml"]
    assert len(read_key_ring(target)) == 3


def test_keys_made_at_once_are_all_there(file: Path) -> None:
    entries = [
        KeyEntry(name=f"n{each}", sha256=hash_of(new_key()), scopes=frozenset({Scope.READ}))
        for each in range(20)
    ]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda entry: add_key(file, entry), entries))
    assert set(parse(file.read_text(), file).keys) == set(entries)


def test_a_file_that_is_not_written_so_is_left_alone(file: Path) -> None:
    text = f'keys = [{{name = "web", sha256 = "{"a" * 64}", scopes = ["read"]}}]\n'
    file.write_text(text)
    for arguments in (("new", "b", "--scopes", "read"), ("revoke", "web")):
        with pytest.raises(StartupError, match=r"is not (TOML|as this command writes it)"):
            keys(*arguments, file=file)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('sha256 = "cs_hush-hush"', "keys.0.sha256"),
        ('name = "two words"', "keys.0.name"),
        ('name = "line\\n"', "keys.0.name"),
        ('scopes = ["hush-hush"]', "keys.0.scopes"),
        ("scopes = []", "keys.0.scopes"),
        ("expires = 2027-01-01T00:00:00", "keys.0.expires"),  # of no time zone
        ("max_in_flight = 0", "keys.0.max_in_flight"),
        ("calls_per_second = -1", "keys.0.calls_per_second"),
        ('secret = "hush-hush"', "keys.0.secret"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_mistake_is_named_and_no_value_shown(file: Path, line: str, expected: str) -> None:
    values = {"name": '"web"', "sha256": f'"{"a" * 64}"', "scopes": '["read"]'}
    name, equals, value = line.partition(" = ")
    values |= {name: value} if equals else {}
    lines = ["[[keys]]", *(f"{key} = {value}" for key, value in values.items())]
    file.write_text("\n".join(lines if equals else [*lines, line]))
    with pytest.raises(StartupError) as caught:
        read_key_ring(file)
    assert expected in caught.value.message
    assert "hush" not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("value", ["[" * 5_000 + "]" * 5_000, "9" * 5_000])
def test_toml_that_python_gives_up_on_is_no_toml(file: Path, value: str) -> None:
    with pytest.raises(StartupError, match=r"keys\.toml: is not TOML"):
        parse(f"keys = {value}", file)


def test_one_key_for_two_callers_is_a_mistake(file: Path) -> None:
    file.write_text(WRITTEN_BY_HAND + WRITTEN_BY_HAND.replace('"web"', '"other"'))
    with pytest.raises(StartupError, match="listed twice"):
        read_key_ring(file)


def test_a_file_that_cannot_be_read_or_written_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        keys("list", file=file)
    with pytest.raises(StartupError, match=r"cannot be written: No such file or directory$"):
        keys("new", "web", "--scopes", "read", file=tmp_path / "nowhere" / "keys.toml")
    file.write_bytes(b"\xff")
    with pytest.raises(StartupError, match="UTF-8"):
        keys("list", file=file)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EPERM, "Operation not permitted; its owner or root can"),
    ],
)
def test_another_user_is_told_to_write_only_if_one_could(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    file.write_text(WRITTEN_BY_HAND)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StartupError, match=f"cannot be written: {expected}$"):
        keys("revoke", "web", file=file)
    assert file.read_text() == WRITTEN_BY_HAND
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("new", "web"),
        ("new", "two words", "--scopes", "read"),
        ("new", "web", "--scopes", "all"),
        ("new", "web", "--scopes", "read", "--expires", "90"),
        ("new", "web", "--scopes", "read", "--max-in-flight", "0"),
        ("new", "web", "--scopes", "read", "--calls-per-second", "inf"),
    ],
)
def test_what_is_not_understood_changes_nothing(file: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        keys(*arguments, file=file)
    assert caught.value.code == 2
    assert not file.exists()
