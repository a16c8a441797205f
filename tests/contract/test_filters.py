"""Every index lets the same images pass as `filtering.py`, which says what a filter means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
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
    # qdrant_client's local mode needs no index on a payload, and warns of one.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
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
NAMES = st.sampled_from(["k", "n", "b", "t", "free", "a b", "é", "", "url", "a.b[]"])
STRINGS = st.sampled_from(["", "r", "red", "Red", "rouge", "ré", "1", "true"])
# The second one Qdrant Edge reads with an error.
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
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | NUMBERS | STRINGS | TIMES.map(datetime.isoformat),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(NAMES, values, min_size=1, max_size=2)
    ),
    max_leaves=4,
)
METADATA: st.SearchStrategy[Metadata] = st.dictionaries(NAMES, VALUES, max_size=6)

OWN_STRINGS = st.sampled_from(["url", "uri", "media_type", "sha256", "duplicate_of"])
OWN_VALUES = {"url": "", "uri": "picture 1", "media_type": "image/png", "sha256": f"{1:064x}"}


def paths(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(st.none(), max_size=2)
    steps = st.builds(lambda name, brackets: [name, *brackets], names, lists)
    inner = st.lists(steps, max_size=1).map(lambda more: [it for one in more for it in one])
    return st.builds(lambda first, rest: to_path(["metadata", *first, *rest]), steps, inner)


ANY = paths(NAMES)
# In an index of the other type, there is none of them.
WITH_NUMBERS = ANY.filter(lambda path: path != "metadata.t")
WITH_TIMES = ANY.filter(lambda path: path != "metadata.n")


def subsets(bounds: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    names = st.sampled_from(["gt", "gte", "lt", "lte"])
    return st.dictionaries(names, bounds, min_size=1, max_size=2)


def several(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(MatchAny, ANY, several(STRINGS) | several(st.booleans())),
    st.builds(MatchAny, WITH_NUMBERS, several(NUMBERS)),
    st.builds(
        lambda field, bounds: NumberRange(field=field, **bounds), WITH_NUMBERS, subsets(NUMBERS)
    ),
    st.builds(lambda field, bounds: TimeRange(field=field, **bounds), WITH_TIMES, subsets(TIMES)),
    st.builds(Exists, ANY | OWN_STRINGS | st.sampled_from(["width_px", "create_time"])),
    st.builds(Prefix, ANY, STRINGS.filter(bool)),
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


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    metadata=st.lists(METADATA, min_size=IMAGES, max_size=IMAGES),
    filters=st.lists(FILTERS, min_size=8, max_size=8),
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
