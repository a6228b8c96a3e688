"""What each form of export costs, in nats: mean |difference of log p| against the trained model, and
what rounding in memory explains.

    python bench/export.py RUN_OR_ADAPTER
    python bench/export.py RUN_OR_ADAPTER --break    without the q/k permutation: the check must refuse it
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import Result, arguments, failures, machine, report, table

FORMS = (("gguf-adapter", "F16"), ("gguf", "F16"), ("gguf", "Q8_0"), ("ollama", "F16"), ("merged", "F16"))


def measure(target: str, broken: bool) -> list[Result]:
    from sapwood.errors import ExportError
    from sapwood.export import check as checks
    from sapwood.export.ship import Order, export
    from sapwood.gguf import layout
    from sapwood.serve.load import open_target

    trained: Any = open_target(target, Path("runs"), exact=True)
    if broken:
        layout.rotary_heads = lambda *_: None
    rows: list[Result] = []
    judged: list[checks.Check] = []
    refuse = checks.Check.refuse

    def kept(check: checks.Check, where: str) -> None:  # what a refused export measured, too
        judged.append(check)
        refuse(check, where)

    checks.Check.refuse = kept  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="sapwood-export-") as folder:
        for kind, file_type in FORMS[:1] if broken else FORMS:
            row: Result = {"name": f"{kind} {file_type if kind == 'gguf' else ''}".strip()}
            try:
                done = export(trained, Order(kind, file_type), Path(folder) / f"{kind}-{file_type}")  # type: ignore[arg-type]
            except ExportError as error:
                row["refused" if broken else "error"] = error.problems[0].what  # names no folder
            else:
                row |= done.facts
                if broken:
                    row["error"] = "a broken export wasn't refused"
            if judged:
                check = judged[-1]
                row |= {"difference": check.difference, "rounding": check.format_difference}
                row["ratio"] = check.difference / check.format_difference
            rows.append(row)
    return rows


def main() -> int:
    parser: argparse.ArgumentParser = arguments(__doc__, rows=0)
    parser.add_argument("target", nargs="?", default="last", help="a run or an adapter folder (%(default)s)")
    parser.add_argument("--break", dest="broken", action="store_true", help="leave the permutation out")
    given = parser.parse_args()
    facts = machine()
    rows = measure(given.target, given.broken)
    good = [[r["name"], r["difference"], r["rounding"], r["ratio"]] for r in rows if "error" not in r]
    print(table(["form", "export (nat)", "rounding (nat)", "ratio"], good))
    given.target = "RUN"  # results name no folder of this machine
    ratios = [row["ratio"] for row in rows if "ratio" in row] or [0.0]
    name = "export_break" if given.broken else "export"
    report(name, given, facts, {"rows": rows, "ratio": {"least": min(ratios), "most": max(ratios)}})
    return failures(rows)


if __name__ == "__main__":
    raise SystemExit(main())
