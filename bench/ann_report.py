"""Makes bench/results/ann.md of what bench/ann.py measured.

.venv-dev/bin/python bench/ann_report.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
NOTES = """\
- **recall@10** is how many of the true ten nearest are found, the mean of {queries} texts and of
  as many pictures ({few} of each where every vector is gone through).
- **p50, p99** are of one text query at a time, in the process of the index. A percentile is the
  lowest of {passes} passes. The p99 of {few} queries is all but their slowest.
- **Memory**: *private* is the process's own, *files* are pages of the vectors and the graph, which
  the kernel may drop when memory is short and then has to read again. The log is left out.
- **Building** is on one thread, as the server does on two cores; CPU seconds say more than seconds
  of the clock, as the machine had other work.
- **Disk** is vectors, compressed vectors and graph, without the log.
"""


def main() -> None:
    files = RESULTS.glob("ann-*.json")
    results = sorted(
        (json.loads(file.read_text()) for file in files), key=lambda r: int(r["points"])
    )
    text = "\n".join(page(results)) + "\n"
    (RESULTS / "ann.md").write_text(text, encoding="utf-8")


def page(results: Sequence[Json]) -> Iterator[str]:
    queries = [row["queries"] for row in results[0]["rows"]]
    yield "# The search graph, plain and quantised"
    yield ""
    yield "Made by `bench/ann_report.py`; what is measured and how: `bench/ann.py`; of what data:"
    yield "`bench/clip_like.py`. Vectors of 512 dimensions in Qdrant Edge, as the server configures"
    yield "it (HNSW, m 16, ef_construct 100, hnsw_ef 100 unless said), on a machine with other work."
    yield ""
    yield NOTES.format(
        queries=f"{max(queries):,}", few=min(queries), passes=results[0]["passes"]
    ).rstrip()
    for result in results:
        yield from section(result)
    yield from data(results)


def section(result: Json) -> Iterator[str]:
    rows = [row for row in result["rows"] if row["hnsw_ef"] is None]
    by_ef = [row for row in result["rows"] if row["hnsw_ef"] is not None]
    machine, versions = result["machine"], result["versions"]
    loads = [one["load"] for row in result["rows"] for one in row["passes"]]
    (plain,) = (row for row in rows if row["name"] == "plain")
    yield ""
    yield f"## {result['points']:,} vectors"
    yield ""
    yield (
        f"{result['date']}; {machine['cpu']}, {machine['cores']} cores "
        f"({', '.join(machine['instructions'])}), {machine['memory_gb']} GB; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + f"; load average while measuring {min(loads):.1f} to {max(loads):.1f}. Repeat with"
    )
    yield ""
    for stage in ("build", "measure"):
        yield f"    .venv-dev/bin/python bench/ann.py {stage} --points {result['points']}"
    yield ""
    memory = ("private_mb", "segments_mb")
    yield from table(
        ",recall@10 texts,pictures,p50 ms,p99 ms,p50 to plain's,private MB,files MB".split(","),
        (
            [
                row["name"],
                *found(row),
                *times(row),
                f"{row['p50_ms'] / plain['p50_ms']:.2f}",
                *(f"{row[key]:,.0f}" for key in memory),
            ]
            for row in rows
        ),
    )
    yield ""
    yield from table(
        ["plain, by hnsw_ef", *map(str, (row["hnsw_ef"] for row in by_ef))],
        zip(
            ["recall@10 texts", "pictures", "p50 ms", "p99 ms"],
            *([*found(row), *times(row)] for row in by_ef),
            strict=True,
        ),
    )
    yield ""
    upsert_s = result["build"]["linear"]["upsert_s"]
    yield (
        f"Upserting took {upsert_s:.0f} s, {result['points'] / upsert_s:,.0f} points/s, before any "
        f"graph: {result['build']['linear']['disk_mb']:,.0f} MB on disk. Then:"
    )
    yield ""
    keys = ("optimize_s", "optimize_cpu_s", "load", "disk_mb")
    yield from table(
        ["optimize", "s", "CPU s", "load average", "disk MB"],
        (
            [name, *(f"{known[key]:,.0f}" for key in keys)]
            for name, known in result["build"].items()
            if name != "linear"
        ),
    )


def data(results: Sequence[Json]) -> Iterator[str]:
    yield ""
    yield "## The data"
    yield ""
    yield from table(
        ["", *(f"{result['points']:,}" for result in results)],
        ([name, *(f"{r['data'][name]:.3g}" for r in results)] for name in results[0]["data"]),
    )


def found(row: Json) -> list[str]:
    return [f"{row[f'recall_{kind}']:.3f}" for kind in ("text", "picture")]


def times(row: Json) -> list[str]:
    return [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms")]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
