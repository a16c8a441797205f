"""Queries of a single text, straight to an engine."""

from __future__ import annotations

from clipsearch_server.engine import SearchEngine
from clipsearch_server.searching import Found, Query
from clipsearch_server.stages import Stages
from clipsearch_server.terms import TextTerm
from clipsearch_server.text_embedding import PromptedText


async def find(engine: SearchEngine, text: str, *, limit: int) -> Found:
    query = Query(terms=[TextTerm(text=PromptedText(text))], limit=limit)
    (found,) = await engine.search([query], Stages())
    return found
