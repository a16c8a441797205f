"""The command, run against a scripted server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from clipsearch.cli.app import app
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.scripted_service import ScriptedService

Run = Callable[..., Result]


@pytest.fixture
def run(service: ScriptedService) -> Run:
    """Runs the command with its arguments, wide enough that no line is folded."""
    service.answer(
        "GetServerInfo",
        pb.GetServerInfoResponse(
            version="0.1.0",
            model=pb.Model(id="demo", fingerprint="abc", precision="fp16", embedding_dim=256),
            encoder="onnxruntime 1.32.0",
            index="qdrant-edge 0.9.0",
            collections=[pb.Collection(name="images", image_count=1234, is_default=True)],
            limits=pb.Limits(max_image_bytes=10_000, max_image_pixels=50_000_000, max_limit=1000),
        ),
    )

    service.answer(
        "GetCollection",
        pb.GetCollectionResponse(
            collection=pb.Collection(
                name="images-1",
                image_count=1234,
                is_default=True,
                aliases=["images"],
                model_id="demo",
                model_fingerprint="abc",
                embedding_dim=256,
            )
        ),
    )

    def run_command(*arguments: str, stdin: str | bytes = "") -> Result:
        environment = {"CLIPSEARCH_SERVER": service.target, "COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, arguments, input=stdin, env=environment)

    return run_command
