"""Terms and options -> what the server finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

from clipsearch import Filter, QueryResult, QueryTerm, Ranking, SearchClient

# What the contract allows. With the few hits of a page for people, all of them take many calls.
LARGEST_PAGE = 1000


class Options(TypedDict):
    """What every kind of query has, as the client's methods name it."""

    limit: int
    score_threshold: float | None
    collection: str
    filter: Filter | None
    ranking: Ranking | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A query of any kind."""

    terms: Sequence[QueryTerm]
    options: Options
    prompt_templates: Sequence[str] | None
    fetch_headers: Mapping[str, str] = field(default_factory=dict)

    def page(self, client: SearchClient, page_token: str = "") -> QueryResult:
        """Returns one page of hits."""
        match self.terms:
            case [QueryTerm(text=str(text), weight=1)]:
                return client.query_text(
                    text,
                    page_token=page_token,
                    prompt_templates=self.prompt_templates,
                    **self.options,
                )
            case [QueryTerm(text=None, weight=1) as image]:
                return client.query_image(
                    id=image.image_id,
                    url=image.image_url,
                    content=image.image_content,
                    fetch_headers=self.fetch_headers,
                    page_token=page_token,
                    **self.options,
                )
            case _:
                return client.query(
                    self.terms,
                    page_token=page_token,
                    prompt_templates=self.prompt_templates,
                    **self.options,
                )

    def all_pages(self, client: SearchClient, page_token: str = "") -> QueryResult:
        """Returns the hits of all pages as one; its timings are the last one's."""
        result = self.page(client, page_token)
        hits = [*result.hits]
        while result.next_page_token:
            result = self.page(client, result.next_page_token)
            hits += result.hits
        return replace(result, hits=tuple(hits))
