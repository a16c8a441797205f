"""Drawings as they are read from a package and rendered; needs what `make train-demo` installs."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resvg_py", reason="only training the demo model renders drawings")
pytest.importorskip("fontTools", reason="only training the demo model renders drawings")

from clipsearch_export.demo.emoji import Emoji
from clipsearch_export.demo.pictures import SIZE, iconify_drawings, render


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A package with one drawing: a yellow disc of half the width."""
    package = tmp_path / "twemoji" / "package"
    package.mkdir(parents=True)
    disc = '<circle cx="18" cy="18" r="9" fill="#ff0"/>'
    pack = {"width": 36, "height": 36, "icons": {"yellow-circle": {"body": disc}, "other": {}}}
    (package / "icons.json").write_text(json.dumps(pack))
    (package / "chars.json").write_text(json.dumps({"1f7e1-fe0f": "yellow-circle"}))
    return tmp_path


@pytest.mark.parametrize("inked", [False, True])
def test_ink_goes_round_a_shape_and_leaves_its_inside(sources: Path, inked: bool) -> None:
    emoji = [Emoji(code="1f7e1", name="yellow circle", keywords=())]
    (drawing,) = iconify_drawings(sources, "twemoji", emoji, inked=inked)
    assert drawing.code == "1f7e1"

    pixels = render(drawing.body)

    assert pixels.shape == (SIZE, SIZE, 4)
    opaque = pixels[pixels[..., 3] > 250][:, :3]
    dark = int((opaque.max(axis=1) < 60).sum())
    assert dark > 100 if inked else dark == 0
    np.testing.assert_array_equal(pixels[SIZE // 2, SIZE // 2], [255, 255, 0, 255])
    assert pixels[0, 0, 3] == 0
