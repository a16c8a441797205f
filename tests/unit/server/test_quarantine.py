"""Poison is remembered for a while, and no more of it than there is room for."""

from __future__ import annotations

from clipsearch_server.decoding.quarantine import Quarantine


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_added_is_known_by_its_hash() -> None:
    quarantine = Quarantine()
    quarantine.add("a", 10, "spins")
    assert quarantine.cause("a") == "spins"
    assert quarantine.cause("b") is None


def test_only_content_of_a_known_size_need_be_hashed() -> None:
    quarantine = Quarantine(max_entries=2)
    for sha256, size in (("a", 10), ("b", 10), ("c", 20)):
        quarantine.add(sha256, size, "spins")
    assert quarantine.may_hold(10)
    assert not quarantine.may_hold(11)
    quarantine.add("d", 30, "spins")  # which leaves no room for the last of 10
    assert not quarantine.may_hold(10)


def test_the_oldest_make_room() -> None:
    quarantine = Quarantine(max_entries=2)
    for sha256 in ("a", "b", "a", "c"):
        quarantine.add(sha256, 10, "spins")
    assert [quarantine.cause(sha256) for sha256 in "abc"] == ["spins", None, "spins"]


def test_it_forgets() -> None:
    clock = Clock()
    quarantine = Quarantine(keep_s=60, clock=clock)
    quarantine.add("a", 10, "spins")
    clock.now = 59
    quarantine.add("b", 20, "spins")
    clock.now = 60
    assert quarantine.cause("a") is None
    assert not quarantine.may_hold(10)
    assert quarantine.cause("b") == "spins"
