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
RECALL = ("recall@10, texts", "pictures")
TIMES = {"p50 ms": "p50_ms", "of plain's": "ratio", "p99 ms": "p99_ms", "CPU ms": "cpu_ms"}
MEMORY = {"private MB": "private_mb", "files MB": "segments_mb"}
BUILDING = {"CPU s": "optimize_cpu_s", "disk MB": "disk_mb"}
NOTES = """\
- **As a server asks**: for the first 128, of which a page is cut, with `index.hnsw_ef` as it is by
  default. The other rows ask for ten.
- **recall@10** is how many of the true ten nearest are found, the mean of {queries} texts and of
  as many pictures ({few} of each where every vector is gone through).
- **p50, p99** are of one text query at a time, in the process of the index. The machine had other
  work, so each query counts with the fastest of the {least} to {most} times that it was asked, and
  p99 says what a hard query takes, not a disturbed one. The p99 of {few} queries is all but their
  slowest. **CPU ms** is the processor time of a query, the mean.
- **Memory**: *private* is the process's own, *files* are pages of the vectors and the graph, which
  the kernel may drop when memory is short and then has to read again. The log is left out. Of
  originals on disk those pages count that queries read; and reading them took no time here, as the
  kernel had them.
- **optimize** is on one thread, as it is in a server on two cores, so the CPU seconds are what it
  takes on an idle core; other work had the cores for more than half of the time by the clock, which
  the JSON files have. turbo4-cold is made of turbo4, in so little time that its graph must have
  been kept; a change of the quantisation builds it anew.
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
    asked = [row["rounds"] * len(row["passes"]) for result in results for row in result["rows"]]
    yield "# The search graph, plain and quantised"
    yield ""
    yield "Made by `bench/ann_report.py`; what is measured and how: `bench/ann.py`; of what data:"
    yield "`bench/clip_like.py`. Vectors of 512 dimensions in Qdrant Edge, as the server configures"
    yield "it: HNSW, m 16, ef_construct 100, and hnsw_ef 100 unless said."
    yield ""
    yield NOTES.format(
        queries=f"{max(queries):,}", few=min(queries), least=min(asked), most=max(asked)
    ).rstrip()
    for result in results:
        yield from section(result)
    yield from data(results)


def section(result: Json) -> Iterator[str]:
    (plain,) = (row for row in result["rows"] if row["name"] == "plain")
    for row in result["rows"]:
        row["ratio"] = row["p50_ms"] / plain["p50_ms"]
    machine, versions = result["machine"], result["versions"]
    loads = [one["load"] for row in result["rows"] for one in row["passes"]]
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
    keys = [*TIMES.values(), *MEMORY.values()]
    yield from table(
        ["", *RECALL, *TIMES, *MEMORY],
        ([row["name"], *found(row), *figures(row, keys)] for row in result["rows"]),
    )
    yield ""
    linear = result["build"]["linear"]
    points_s = result["points"] / linear["upsert_s"]
    yield (
        f"Upserting took {linear['upsert_s']:.0f} s, {points_s:,.0f} points/s at a load average of "
        f"{linear['load']:.1f}, and {linear['disk_mb']:,.0f} MB on disk. Then:"
    )
    yield ""
    yield from table(
        ["optimize", *BUILDING],
        (
            [name, *figures(known, BUILDING.values())]
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


def figures(values: Json, keys: Iterable[str]) -> list[str]:
    """To three digits or so."""
    return [f"{values[key]:,.{0 if values[key] >= 30 else 2}f}" for key in keys]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
