"""Filters as people write them: ``colour = red and (width >= 640 or added > 2026-11-01)``.

    filter     := and { "or" and }
    and        := not { "and" not }
    not        := "not" not | "(" filter ")" | condition
    condition  := field ("=" | "!=") value
                | field (">" | ">=" | "<" | "<=") (number | time)
                | field ["not"] "in" "(" value { "," value } ")"
                | field "starts" "with" value
                | field ("exists" | "missing")

Words are read in either case. A field is one of the image's own, a short name of one (``format``,
``width``, ``height``, ``size``, ``added``, ``updated``) or a path into the metadata, as
``clipsearch.filters`` has it. A value is a number, ``true`` or ``false``, a time, or a string,
which is quoted with ``"`` or ``'`` if it has blanks or any of ``"(),=<>!`` in it, or would be
read as one of the others. A time is a day (``2026-11-01``), which lasts from midnight to midnight
UTC, or an instant with its time zone (``2026-11-01T10:30Z``). ``!=`` and ``not in`` hold for
images that have no such value too; a format is a media type, or its name: ``jpeg``.
"""

from __future__ import annotations

from clipsearch.filter_syntax.parser import parse_filter
from clipsearch.filter_syntax.tokens import FilterSyntaxError

__all__ = ["FilterSyntaxError", "parse_filter"]
