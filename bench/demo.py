"""What the demo takes and gives, from a run of it that ended on this machine. `sapwood demo` keeps its
figures in the run's folder; this script adds the machine.

    make demo
    python bench/demo.py runs/*-demo-*
"""

from __future__ import annotations

import json
from pathlib import Path

from common import arguments, machine, report, table


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("run", type=Path, help="the run's folder")
    given = parser.parse_args()
    facts = machine()
    row = json.loads((given.run / "demo.json").read_text(encoding="utf-8"))
    run = json.loads((given.run / "run.json").read_text(encoding="utf-8"))
    row["loss_change"] = row["loss"] / row["base_loss"] - 1
    given.run = "RUN"  # results name no folder of this machine
    print(table(["seconds", "peak GB", "loss before", "after", "answers that stop", "of"], [
        [row["seconds"], row["peak_bytes"] / 1e9, row["base_loss"], row["loss"], row["stopped_by_themselves"],
         row["answers"]]]))  # fmt: skip
    report("demo", given, facts, {"when": run["created"], "versions": run["versions"], "rows": [row]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
