"""What each form of export costs, in nats: mean |difference of log p| against the trained model, and
what rounding in memory explains. ``--break`` leaves the q/k permutation out, and the check must fail.

    python bench/export.py RUN_OR_ADAPTER
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
    from sapwood.export.ship import Order, export
    from sapwood.gguf import map as layout
    from sapwood.serve.load import open_target

    trained: Any = open_target(target, Path("runs"), exact=True)
    if broken:
        layout.rotary_heads = lambda *_: None
    rows: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sapwood-export-") as folder:
        for kind, file_type in FORMS[:1] if broken else FORMS:
            row: Result = {"name": f"{kind} {file_type if kind == 'gguf' else ''}".strip()}
            try:
                done = export(trained, Order(kind, file_type), Path(folder) / f"{kind}-{file_type}")  # type: ignore[arg-type]
            except ExportError as error:
                row["error"] = str(error)
            else:
                check = done.check
                row |= {"difference": check.difference, "rounding": check.format_difference, **done.facts}
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
    report("export", given, facts, {"rows": rows})
    return failures(rows)


if __name__ == "__main__":
    raise SystemExit(main())
