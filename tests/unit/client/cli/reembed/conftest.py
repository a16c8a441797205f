"""The command against a server in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from unit.client.cli.reembed.library import Library, serve
from unit.client.scripted_service import ScriptedService


@pytest.fixture
def library(service: ScriptedService, run: Callable[..., Result]) -> Library:
    """Answers in place of what ``run`` has the service say."""
    return serve(service, Library())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of failures are written to where the command runs."""
    monkeypatch.chdir(tmp_path)
