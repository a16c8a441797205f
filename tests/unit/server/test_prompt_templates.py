"""Which prompt templates are taken."""

from __future__ import annotations

import pytest

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest
from clipsearch_server.rpc.prompt_templates import prompt_templates_of


@pytest.mark.parametrize(
    "templates", [[], ["{}"], ["a photo of a {}.", "{} {", "ein Bild: {}"], ["{}"] * 100]
)
def test_templates_are_taken_as_they_are(templates: list[str]) -> None:
    message = pb.PromptTemplates(templates=templates)
    assert prompt_templates_of(message, "prompt_templates") == tuple(templates)


@pytest.mark.parametrize(
    ("templates", "field"),
    [
        (["{}", "a photo"], "templates[1]"),
        (["{} and {}"], "templates[0]"),
        ([""], "templates[0]"),
        (["{0}"], "templates[0]"),
        (["{}" + "ä" * 512], "templates[0]"),
        (["{}"] * 101, "templates"),
    ],
)
def test_a_template_that_is_none_is_named(templates: list[str], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompt_templates_of(pb.PromptTemplates(templates=templates), "prompt_templates")
    assert caught.value.field == f"prompt_templates.{field}"
