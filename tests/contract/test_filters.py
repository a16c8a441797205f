"""Every index lets the same images pass as `filtering.py`, which says what a filter means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clipsearch_server.filters import (
    Condition,
    Exists,
    Filter,
    MatchAny,
    NumberRange,
    Prefix,
    TimeRange,
    to_path,
)
from clipsearch_server.ports import (
    FieldType,
    ImageIndex,
    IndexedField,
    JsonValue,
    Metadata,
    NearestQuery,
)
from filtering import passes
from stored_images import BORN, KINDS, an_image, an_open_index, embeddings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # qdrant_client's local mode needs no index on a payload, is always exact, and warns of either.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

IMAGES = 8

# Few names and values, so that many filters find something. A field with an index has values of
# every type, too.
INDEXED = (
    IndexedField("metadata.k", FieldType.KEYWORD),
    IndexedField("metadata.n", FieldType.NUMBER),
    IndexedField("metadata.b", FieldType.BOOL),
    IndexedField("metadata.t", FieldType.TIME),
    IndexedField('metadata."a b"[].k', FieldType.KEYWORD),
)
NAMES = st.sampled_from(["k", "a b"])
STRINGS = st.sampled_from(["", "r", "red", "Red", "rouge", "ré", "1", "true"])
NUMBERS = st.sampled_from([0.0, 1701966941.1688077, 1.0, -2.5, 0.1 + 0.2, 1e300, 5e-324, 2.0**53])
TIMES = st.sampled_from(
    [
        BORN,
        BORN + timedelta(microseconds=1),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 2, 5, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | STRINGS | TIMES.map(datetime.isoformat)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values),
    max_leaves=4,
)
FIELDS = ("k", "n", "b", "t", "free", "a b", "é", "url", "", "a.b[]")
METADATA: st.SearchStrategy[Metadata] = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(FIELDS, VALUES)
)
PATHS = st.sampled_from(
    [
        *(to_path(["metadata", name]) for name in FIELDS),
        *(to_path(["metadata", name, None]) for name in ("k", "free")),
        *(to_path(["metadata", "free", *rest]) for rest in (["k"], [None, "k"], [None, None])),
        *(
            to_path(["metadata", "a b", *rest])
            for rest in (["a b"], [None, "k"], ["k", None, "a b"])
        ),
    ]
)

OWN_STRINGS = st.sampled_from(["url", "uri", "media_type", "sha256", "duplicate_of"])
OWN_VALUES = {"url": "", "uri": "picture 1", "media_type": "image/png", "sha256": f"{1:064x}"}


# In an index of the other type, there is none of them.
WITH_NUMBERS = PATHS.filter(lambda path: path != "metadata.t")
WITH_TIMES = PATHS.filter(lambda path: path != "metadata.n")


def subsets(bounds: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    names = st.sampled_from(["gt", "gte", "lt", "lte"])
    return st.dictionaries(names, bounds, min_size=1, max_size=2)


def several(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(MatchAny, PATHS, several(STRINGS) | several(st.booleans())),
    st.builds(MatchAny, WITH_NUMBERS, several(NUMBERS)),
    st.builds(
        lambda field, bounds: NumberRange(field=field, **bounds), WITH_NUMBERS, subsets(NUMBERS)
    ),
    st.builds(lambda field, bounds: TimeRange(field=field, **bounds), WITH_TIMES, subsets(TIMES)),
    st.builds(Exists, PATHS | OWN_STRINGS | st.sampled_from(["width_px", "create_time"])),
    st.builds(Prefix, PATHS, STRINGS.filter(bool)),
    st.builds(
        lambda field: MatchAny(field, (OWN_VALUES.get(field, str(UUID(int=2))),)), OWN_STRINGS
    ),
    st.builds(Prefix, OWN_STRINGS, st.sampled_from(["https://example.org/1", "image/", "0"])),
    st.builds(
        lambda bounds: NumberRange(field="width_px", **bounds),
        subsets(st.sampled_from([1.0, 1.5, 2.0, 640.0])),
    ),
    st.builds(lambda bounds: TimeRange(field="update_time", **bounds), subsets(TIMES)),
)


def filters_of(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[Filter]:
    some = st.lists(conditions, max_size=2).map(tuple)
    return st.builds(lambda m, s, n: Filter(must=m, should=s, must_not=n), some, some, some)


FILTERS = filters_of(st.recursive(LEAVES, filters_of, max_leaves=3))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ImageIndex]:
    async with an_open_index(request.param, tmp_path_factory.mktemp("data"), INDEXED) as opened:
        yield opened


STORED = [
    {"k": "red", "n": 1.0, "b": True, "t": BORN.isoformat(), "a b": [{"k": "r"}, {"k": ["blue"]}]},
    {"k": ["blue", "rouge"], "n": [7.0, 1701966941.1688077], "b": False, "t": "2026-01-02"},
    {"k": "", "n": 0, "b": 1, "t": 1.0, "free": None},
    {"k": [], "n": "1", "b": "true", "t": "no time", "free": {"k": "red"}},
    {"k": True, "n": True, "b": [False, True], "free": [{"k": None}, {"k": "red"}], "url": "red"},
    {"x": 1701966941.1688077},  # which Qdrant Edge reads with an error
]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (MatchAny("metadata.k", ("red",)), {0}),
        (MatchAny("metadata.k", ("red", "blue", "green")), {0, 1}),
        (MatchAny("metadata.k", ("",)), {2}),
        (MatchAny("metadata.n", (1.0,)), {0}),
        (MatchAny("metadata.n", (1701966941.1688077, 0)), {1, 2}),
        (MatchAny("metadata.x", (1701966941.1688077,)), {5}),
        (NumberRange(field="metadata.x", gt=1701966941.1688077), set()),
        (NumberRange(field="metadata.x", lt=1701966941.1688077), set()),
        (MatchAny("metadata.b", (True,)), {0, 4}),
        (MatchAny("metadata.b", (False,)), {1, 4}),
        (MatchAny("metadata.b", (True, False)), {0, 1, 4}),
        (MatchAny("metadata.b", (1.0,)), {2}),
        (MatchAny("metadata.free.k", ("red",)), {3}),
        (MatchAny("metadata.free[].k", ("red",)), {4}),
        (MatchAny('metadata."a b"[].k', ("r", "x")), {0}),
        (MatchAny('metadata."a b"[].k', ("blue",)), {0}),
        (MatchAny("metadata.url", ("red",)), {4}),
        (Prefix("metadata.k", "r"), {0, 1}),
        (Prefix("metadata.k", "R"), set()),
        (Prefix("uri", "picture"), {0, 1, 2, 3, 4, 5}),
        (NumberRange(field="metadata.n", gt=1.0), {1}),
        (NumberRange(field="metadata.n", gte=1.0, lt=7.0), {0}),
        (NumberRange(field="metadata.n", gt=7.0, lt=1701966941.1688077), set()),
        (NumberRange(field="height_px", gt=479.5, lte=480.0), {0, 1, 2, 3, 4, 5}),
        (TimeRange(field="metadata.t", gte=BORN), {0}),
        (TimeRange(field="metadata.t", gt=BORN), set()),
        (TimeRange(field="update_time", gt=BORN, lte=BORN + timedelta(microseconds=2)), {1, 2}),
        (Exists("metadata.k"), {0, 1, 2, 4}),
        (Exists("metadata.free"), {3, 4}),
        (Exists("metadata.free[].k"), {4}),
        (Exists("url"), {1, 2, 3, 4, 5}),
        (Exists("duplicate_of"), {3}),
        (Filter(), {0, 1, 2, 3, 4, 5}),
        (Filter(must=(Filter(must_not=(Exists("metadata.k"),)),)), {3, 5}),
        (
            Filter(
                must=(Exists("metadata.n"),),
                should=(MatchAny("metadata.k", ("red",)), MatchAny("metadata.b", (False,))),
                must_not=(MatchAny("metadata.n", (7.0,)),),
            ),
            {0, 4},
        ),
    ],
    ids=str,
)
async def test_a_condition_lets_pass_what_it_says(
    index: ImageIndex, condition: Condition, expected: set[int]
) -> None:
    images = [an_image(number, metadata=values) for number, values in enumerate(STORED)]
    images[0] = replace(images[0], url="")
    images[3] = replace(images[3], duplicate_of=UUID(int=1))
    await index.upsert(images, embeddings(len(images)))
    await index.delete([UUID(int=number) for number in range(len(images), IMAGES)])
    assert {image.id.int for image in images if passes(image, condition)} == expected
    (found,) = await ids_that_pass(index, [Filter(must=(condition,))])
    assert found == expected


async def test_no_time_is_in_a_range_of_numbers(index: ImageIndex) -> None:
    times = [{"t": BORN.isoformat(), "n": BORN.isoformat()} for _ in range(IMAGES)]
    await index.upsert([an_image(n, metadata=it) for n, it in enumerate(times)], embeddings(IMAGES))
    ranges = [NumberRange(field=f"metadata.{name}", gte=-1e300) for name in "tn"]
    assert await ids_that_pass(index, [Filter(must=(it,)) for it in ranges]) == [set(), set()]


async def test_an_excluded_image_is_none_that_passes(index: ImageIndex) -> None:
    await index.upsert([an_image(n, width_px=n + 1) for n in range(IMAGES)], embeddings(IMAGES))
    query = NearestQuery(
        embedding=embeddings(1)[0],
        limit=10,
        filter=Filter(must=(NumberRange(field="width_px", gte=3.0),)),
        exclude=(UUID(int=3), UUID(int=0)),
        exact=True,
    )
    (hits,) = await index.search([query])
    assert {hit.id.int for hit in hits} == {2, *range(4, IMAGES)}


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a failure names its filter, and to shrink it would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    metadata=st.lists(METADATA, min_size=IMAGES, max_size=IMAGES),
    filters=st.lists(FILTERS, min_size=16, max_size=16),
)
async def test_what_passes_is_what_the_filter_says(
    index: ImageIndex, metadata: list[Metadata], filters: list[Filter]
) -> None:
    images = [
        an_image(
            number,
            metadata=values,
            url="" if number == 3 else f"https://example.org/{number}",
            width_px=number or 640,
            duplicate_of=UUID(int=number) if number % 2 else None,
        )
        for number, values in enumerate(metadata)
    ]
    await index.upsert(images, embeddings(IMAGES))
    for filter, found in zip(filters, await ids_that_pass(index, filters), strict=True):
        assert found == {image.id.int for image in images if passes(image, filter)}, filter


async def ids_that_pass(index: ImageIndex, filters: Sequence[Filter | None]) -> list[set[int]]:
    (embedding,) = embeddings(1, seed=1)
    queries = [NearestQuery(embedding=embedding, limit=1000, filter=it) for it in filters]
    return [{hit.id.int for hit in hits} for hits in await index.search(queries)]
