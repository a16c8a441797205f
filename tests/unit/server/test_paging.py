"""Pages of a ranking: whatever their sizes, and whatever comes and goes between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from clipsearch_server.paging import WINDOWS, Cursor, WindowedPage, cut_page
from clipsearch_server.ports import ScoredId

# As far apart as the real ones, and small enough to be crossed by few images.
SMALL = (8, 64, 704)

# Few different scores, so that many are equal.
SCORES = [round(n / 40, 3) for n in range(40)]


class Ranking:
    """Images with their scores, searched exactly."""

    def __init__(self, scores: Sequence[float]) -> None:
        random = np.random.default_rng(len(scores))
        self.scores = {
            UUID(int=int(n)): s for n, s in zip(random.permutation(10**4), scores, strict=False)
        }
        self.searched: list[int] = []

    def search(self, limit: int) -> list[ScoredId]:
        self.searched.append(limit)
        ranked = sorted(self.scores.items(), key=lambda it: (-it[1], it[0]))
        return [ScoredId(*it) for it in ranked[:limit]]


class Approximate(Ranking):
    """Misses an image the more often, the fewer are asked for."""

    def search(self, limit: int) -> list[ScoredId]:
        missed = {SMALL[0]: 5, SMALL[1]: 13}.get(limit, 10**9)
        return [hit for hit in super().search(10**9) if hit.id.int % missed][:limit]


def page_of(
    ranking: Ranking, limit: int, after: Cursor | None, windows: Sequence[int] = WINDOWS
) -> tuple[list[UUID], Cursor | None]:
    page = WindowedPage(limit=limit, after=after, windows=windows)
    while windows := page.missing():
        for window in windows:
            page.add(window, ranking.search(window)[: page.first])
    cut = page.cut()
    return [hit.id for hit in cut.hits], cut.next


def all_pages(
    ranking: Ranking,
    limits: Sequence[int],
    between: Callable[[list[UUID]], None] = lambda shown: None,
    windows: Sequence[int] = SMALL,
) -> list[UUID]:
    """The ids of page after page, with limits used in turn."""
    shown, after = page_of(ranking, limits[0], None, windows)
    number = 0
    while after is not None:
        between(shown)
        number += 1
        ids, after = page_of(ranking, limits[number % len(limits)], after, windows)
        shown += ids
    return shown


rankings = st.integers(1, 90).flatmap(
    lambda n: st.lists(st.sampled_from(SCORES), min_size=n, max_size=n)
) | st.sampled_from([7, 8, 9, 63, 64, 65, 90]).map(lambda n: [SCORES[i % 40] for i in range(n)])
page_limits = st.lists(st.integers(3, 25), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(rankings, page_limits)
def test_pages_of_any_sizes_are_the_whole_ranking(scores: list[float], limits: list[int]) -> None:
    ranking = Ranking(scores)
    assert all_pages(ranking, limits) == [hit.id for hit in ranking.search(10**9)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 130), page_limits)
def test_what_a_search_misses_is_shown_once_by_a_wider_one(count: int, limits: list[int]) -> None:
    ranking = Approximate(np.random.default_rng(count).choice(SCORES, count).tolist())
    shown = all_pages(ranking, limits)
    assert len(set(shown)) == len(shown)
    expected = {hit.id for window in SMALL for hit in ranking.search(window)}
    if len(ranking.search(SMALL[1])) == SMALL[1]:  # or there is said to be nothing behind it
        assert set(shown) == expected


@settings(max_examples=30, deadline=None, phases=[Phase.generate])
@given(rankings, page_limits, st.integers(0, 2**32 - 1))
def test_whatever_is_added_or_deleted_what_stays_is_shown_once(
    scores: list[float], limits: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    ranking = Ranking(scores)
    staying = set(ranking.scores)

    def change(shown: list[UUID]) -> None:
        if len(ranking.scores) > 150:  # or new ones come faster than they are shown
            return
        gone = {shown[-1]} if random.random() < 0.7 else set()  # that which the cursor names
        gone |= set(random.choice(list(ranking.scores), random.integers(0, 4)).tolist())
        for image_id in gone:
            ranking.scores.pop(image_id, None)
        staying.difference_update(gone)
        for _ in range(random.integers(0, 15)):
            image_id = UUID(int=int(random.integers(0, 2**62)))
            ranking.scores[image_id] = float(random.choice(SCORES))

    shown = all_pages(ranking, limits, change)
    assert len(set(shown)) == len(shown)
    assert staying <= set(shown)


def test_what_moves_up_into_an_earlier_window_is_shown() -> None:
    ranking = Ranking([n / 100 for n in range(20)])
    shown, after = page_of(ranking, 9, None, SMALL)
    for image_id in shown:
        del ranking.scores[image_id]
    ids, _ = page_of(ranking, 20, after, SMALL)
    assert ids == [hit.id for hit in ranking.search(20)]


def test_pages_cross_the_real_windows() -> None:
    ranking = Ranking([SCORES[n % 40] for n in range(1300)])
    shown = all_pages(ranking, [100, 400], windows=WINDOWS)
    assert shown == [hit.id for hit in ranking.search(10**9)]
    assert set(ranking.searched) == {*WINDOWS, 10**9}


@pytest.mark.parametrize(
    ("limit", "rank", "searched"),
    [
        (5, None, [128]),
        (127, None, [128]),
        (128, None, [128, 1024]),  # whether there are more, the first window cannot tell
        (50, 99, [128, 1024]),
        (1000, 99, [128, 1024, 11_264]),
    ],
)
def test_no_window_is_searched_that_the_page_does_not_reach(
    limit: int, rank: int | None, searched: list[int]
) -> None:
    ranking = Ranking([n / 10_000 for n in range(3000)])
    after = None if rank is None else Cursor(rank, ranking.search(rank + 1)[-1])
    ranking.searched.clear()
    page_of(ranking, limit, after)
    assert ranking.searched == searched


def test_an_image_that_was_embedded_anew_is_no_place_to_go_on_at() -> None:
    ranking = Ranking([n / 100 for n in range(100)])
    shown, after = page_of(ranking, 10, None)
    ranking.scores[shown[-1]] = 0.001
    ids, _ = page_of(ranking, 10, after)
    assert ids == [hit.id for hit in ranking.search(19)[9:]]


def test_pages_end_at_the_rank_limit() -> None:
    hits = [ScoredId(UUID(int=n), -n / 100) for n in range(50)]
    page = cut_page([hits], limit=20, after=None, max_rank=40)
    assert page.next == Cursor(19, hits[19])
    page = cut_page([hits], limit=20, after=page.next, max_rank=40)
    assert page.hits == hits[20:40]
    assert page.next is None


def test_a_page_of_a_ranking_by_other_than_scores_goes_on_at_the_rank_of_what_has_gone() -> None:
    hits = [ScoredId(UUID(int=n), n * 7 % 10 / 10) for n in range(10)]
    after = cut_page([hits], limit=4, after=None, is_by_score=False).next
    del hits[3]
    page = cut_page([hits], limit=4, after=after, is_by_score=False)
    assert page.hits == hits[3:7]
