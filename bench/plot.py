"""The bars of examples/s and memory for the README, from the JSON of against_peers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import OUT, Result

OURS, PEER = "#2f6b3a", "#b9b4a7"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", default=OUT / "against_peers.json")
    parser.add_argument("png", type=Path, nargs="?", help="the picture (beside the JSON file)")
    given = parser.parse_args()
    if not given.json.is_file():
        print(f"{given.json} isn't there: run bench/against_peers.py first", file=sys.stderr)
        return 1
    measured = json.loads(given.json.read_text(encoding="utf-8"))
    path = given.png or given.json.with_suffix(".png")
    draw(measured, path)
    print(f"written: {path}")
    return 0


def draw(measured: Result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in measured["rows"] if "error" not in row]
    rows.sort(key=lambda row: row["examples_per_s"])
    names = [row["name"] for row in rows]
    colours = [OURS if row["who"] == "ours" else PEER for row in rows]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 1.2 + 0.36 * len(rows)), sharey=True)
    panels = (
        (axes[0], [row["examples_per_s"] for row in rows], "examples per second (more is better)"),
        (axes[1], [row["peak_bytes"] / 1e9 for row in rows], "peak memory, GB (less is better)"),
    )
    for axis, values, title in panels:
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    facts, known = measured["machine"], measured["versions"]
    libraries = ", ".join(f"{name} {known[name]}" for name in ("torch", "transformers", "peft", "trl"))
    figure.supxlabel(f"{facts['cpu']}, {facts['cores']} cores; {libraries}", fontsize=7, color="#666666")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
