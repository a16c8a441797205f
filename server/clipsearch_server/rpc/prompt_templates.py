"""Prompt templates from messages: what a collection has, and what a query brings of its own."""

from __future__ import annotations

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.errors import InvalidRequest

MAX_TEMPLATES = 100
MAX_TEMPLATE_BYTES = 1_024
_PLACE = "{}"


def prompt_templates_of(message: pb.PromptTemplates, path: str) -> tuple[str, ...]:
    """Reads templates, each with one ``{}`` for the text. Raises InvalidRequest naming the first
    that is none by its path below ``path``."""
    if len(message.templates) > MAX_TEMPLATES:
        raise InvalidRequest(
            f"{path}.templates",
            f"are {len(message.templates)}; at most {MAX_TEMPLATES} are taken",
        )
    for place, template in enumerate(message.templates):
        field = f"{path}.templates[{place}]"
        size = len(template.encode())
        if size > MAX_TEMPLATE_BYTES:
            raise InvalidRequest(field, f"is {size} bytes; at most {MAX_TEMPLATE_BYTES} are taken")
        if template.count(_PLACE) != 1:
            raise InvalidRequest(
                field, "must have {} in one place, where the text goes: a photo of a {}"
            )
    return tuple(message.templates)
