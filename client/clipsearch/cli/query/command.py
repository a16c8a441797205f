"""``clipsearch query``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from clipsearch import Filter, FilterSyntaxError, QueryTerm, Ranking, SearchClient, parse_filter
from clipsearch.cli.options import (
    MAX_COUNT,
    CollectionOption,
    HeaderOption,
    JsonOption,
    parse_headers,
)
from clipsearch.cli.output import show_error, show_json, visible
from clipsearch.cli.query.batch import query_file
from clipsearch.cli.query.search import LARGEST_PAGE, Options, Search
from clipsearch.cli.query.show import draw_hits, show_hits, tell_what_was_cut
from clipsearch.cli.query.terms import Term, describe, parse_term
from clipsearch.cli.session import ExitCode, connect
from clipsearch.cli.sources import UnreadableError

_TERMS = "What to find"
_HITS = "Which hits"
_OUTPUT = "Pages and output"

_Terms: TypeAlias = list[str] | None


def query(
    context: typer.Context,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="What the picture shows.", show_default=False),
    ] = None,
    and_: Annotated[
        _Terms,
        typer.Option("--and", metavar="TEXT", help="And this.", rich_help_panel=_TERMS),
    ] = None,
    not_: Annotated[
        _Terms,
        typer.Option("--not", metavar="TEXT", help="But unlike this.", rich_help_panel=_TERMS),
    ] = None,
    image: Annotated[
        _Terms,
        typer.Option(
            metavar="FILE|URL|ID", help="Like this picture, or stored one.", rich_help_panel=_TERMS
        ),
    ] = None,
    not_image: Annotated[
        _Terms,
        typer.Option(metavar="FILE|URL|ID", help="Unlike this one.", rich_help_panel=_TERMS),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of all these: texts, one a line; `-` reads them from stdin.",
            rich_help_panel=_TERMS,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Put texts into this, such as 'a photo of a {}'; several are averaged.",
            show_default="the collection's",
            rich_help_panel=_TERMS,
        ),
    ] = None,
    header: HeaderOption = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Only images with this, such as 'format = jpeg and width >= 640'.",
            rich_help_panel=_HITS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=1,
            max=MAX_COUNT,
            metavar="N",
            help="How many at most.",
            show_default="the server's",
            rich_help_panel=_HITS,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=-1.0,
            max=1.0,
            metavar="SCORE",
            help="Leave out those of a lower cosine similarity.",
            rich_help_panel=_HITS,
        ),
    ] = None,
    auto_cut: Annotated[
        bool,
        typer.Option(
            "--auto-cut", help="Leave out what does not really match.", rich_help_panel=_HITS
        ),
    ] = False,
    no_duplicates: Annotated[
        bool,
        typer.Option(
            "--no-duplicates",
            help="Of nearly the same pictures, keep the best.",
            rich_help_panel=_HITS,
        ),
    ] = False,
    duplicate_similarity: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SCORE",
            help="The cosine similarity from which pictures are nearly the same; "
            "implies --no-duplicates.",
            show_default="the server's",
            rich_help_panel=_HITS,
        ),
    ] = None,
    diversity: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="X",
            help="How much they are to differ from each other, 0 to 1.",
            rich_help_panel=_HITS,
        ),
    ] = 0.0,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compare with every image: slower.", rich_help_panel=_HITS),
    ] = False,
    page_token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Go on where an earlier page ended.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = "",
    all_: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All hits that there are pages for: 10,000 at most.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the hits, with their scores, as a picture.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    collection: CollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find images by a text, by pictures, or by a mix of them, best first.

    A mix: `clipsearch query "at night" --image beach.jpg --not "people::0.5"`. Each part of it may
    be repeated, and counts 1, or -1 after --not and --not-image, times the weight after `::` at its
    end. docs/searching.md has the formula, and the language of --where. With --file and --json,
    each text gets a line of its own.
    """
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise typer.BadParameter("the file's name must end in .png", param_hint="--sheet")
    terms = [
        *([] if text is None else [parse_term(text)]),
        *(parse_term(it) for it in and_ or []),
        *(parse_term(it, is_image=True) for it in image or []),
        *(parse_term(it, sign=-1) for it in not_ or []),
        *(parse_term(it, sign=-1, is_image=True) for it in not_image or []),
    ]
    if header and (file is not None or len(terms) != 1 or not terms[0].is_url):
        raise typer.BadParameter("is for the URL of a single --image", param_hint="--header")
    if all_ and limit is not None:
        raise typer.BadParameter("either this or --limit", param_hint="--all")
    headers = parse_headers(header or [])
    options = Options(
        limit=LARGEST_PAGE if all_ else limit or 0,
        score_threshold=min_score,
        collection=collection,
        filter=_filter(where),
        ranking=_ranking(auto_cut, no_duplicates, duplicate_similarity, diversity, exact),
    )
    with connect(context) as client, _explained():
        if file is not None:
            if terms or page_token or all_ or sheet is not None:
                raise typer.BadParameter("is for texts alone, a page each", param_hint="--file")
            if query_file(client, file, options, template, as_json=as_json):
                raise typer.Exit(ExitCode.INCOMPLETE)
            return
        search = Search(
            terms=_resolve(client, terms),
            options=options,
            prompt_templates=template,
            fetch_headers=headers,
        )
        result = (search.all_pages if all_ else search.page)(client, page_token)
    tell_what_was_cut(result, terms)
    if as_json:
        show_json(result)
    else:
        counts_alike = no_duplicates or duplicate_similarity is not None
        show_hits(result, is_first_page=not page_token, counts_alike=counts_alike)
    if sheet is not None:
        draw_hits(describe(terms), result, sheet)


def _filter(text: str | None) -> Filter | None:
    if text is None:
        return None
    try:
        return parse_filter(text)
    except FilterSyntaxError as error:
        lines = "\n".join(map(visible, str(error).splitlines()))
        raise typer.BadParameter(lines, param_hint="--where") from error


def _ranking(
    auto_cut: bool,
    no_duplicates: bool,
    duplicate_similarity: float | None,
    diversity: float,
    exact: bool,
) -> Ranking | None:
    ranking = Ranking(
        auto_cut=auto_cut,
        collapse=no_duplicates or duplicate_similarity is not None,
        collapse_similarity=duplicate_similarity,
        diversity=diversity,
        exact=exact,
    )
    return None if ranking == Ranking() else ranking


def _resolve(client: SearchClient, terms: Sequence[Term]) -> list[QueryTerm]:
    if not terms:
        raise typer.BadParameter("say what to find: TEXT, --image or --file", param_hint="TEXT")
    needs_limit = any(term.path is not None for term in terms)
    max_bytes = client.server_info().limits.max_image_bytes if needs_limit else 0
    return [term.resolve(max_bytes) for term in terms]


@contextmanager
def _explained() -> Iterator[None]:
    """Ends the command with one line if a file is at fault."""
    try:
        yield
    except UnreadableError as error:
        show_error(str(error))
        raise typer.Exit(ExitCode.USAGE) from error
