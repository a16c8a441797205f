"""A payload holds everything of an image, as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipsearch_server.indexes.points import from_payload, to_payload
from clipsearch_server.ports import JsonValue, StoredImage

times = st.datetimes(
    min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)
)
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
images = st.builds(
    StoredImage,
    id=st.uuids(),
    url=st.text(),
    uri=st.text(),
    metadata=st.dictionaries(st.text(), json_values),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    media_type=st.sampled_from(["image/jpeg", "image/png"]),
    width_px=st.integers(1, 2**31 - 1),
    height_px=st.integers(1, 2**31 - 1),
    size_bytes=st.integers(1, 2**40),
    create_time=times,
    update_time=times,
    duplicate_of=st.none() | st.uuids(),
)


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)
@given(images)
def test_an_image_survives_its_payload(image: StoredImage) -> None:
    payload = json.loads(json.dumps(to_payload(image)))
    assert from_payload(image.id, payload) == image
    payload.pop("duplicate_of", None)  # as before there were links
    assert from_payload(image.id, payload) == replace(image, duplicate_of=None)


def test_the_keys_are_what_filters_will_name() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    image = StoredImage(
        id=UUID(int=1),
        url="https://example.org/1",
        uri="one",
        metadata={"colour": "red"},
        sha256="ab" * 32,
        media_type="image/png",
        width_px=1,
        height_px=2,
        size_bytes=3,
        create_time=moment,
        update_time=moment,
    )
    assert to_payload(image) == {
        "url": "https://example.org/1",
        "uri": "one",
        "metadata": {"colour": "red"},
        "metadata_json": '{"colour": "red"}',
        "sha256": "ab" * 32,
        "media_type": "image/png",
        "width_px": 1,
        "height_px": 2,
        "size_bytes": 3,
        "create_time": "2026-01-02T00:00:00.000000+00:00",
        "update_time": "2026-01-02T00:00:00.000000+00:00",
    }


def test_a_payload_of_something_else_is_no_image() -> None:
    with pytest.raises(KeyError):
        from_payload(UUID(int=1), {"url": "https://example.org/1"})
