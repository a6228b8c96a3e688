"""How long `sapwood --help` takes, from a cold interpreter to its last line: the median of some calls.

python bench/help.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from common import ROOT, arguments, machine, report, table

CALLS, FIRST = 20, 2  # the first calls compile what is imported, and aren't counted


def main() -> int:
    given = arguments(__doc__, rows=0).parse_args()
    facts = machine()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    seconds: list[float] = []
    for _ in range(FIRST + (2 if given.smoke else CALLS)):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sapwood", "--help"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        seconds.append(time.perf_counter() - began)
    kept = seconds[FIRST:]
    row = {"median": statistics.median(kept), "least": min(kept), "most": max(kept), "calls": len(kept)}
    print(table(list(row), [list(row.values())]))
    report("help", given, facts, {"rows": [row]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
