"""`make demo`, as a person runs it: the real service, the sample pictures, the contact sheets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_the_demo_finds_pictures_and_draws_them() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo" / "run.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "timings on this machine" in done.stdout
    sheets = list((ROOT / "build" / "demo").glob("*.png"))
    assert len(sheets) >= 5
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert min(image.size) >= 200
