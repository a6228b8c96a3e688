"""What rounding to 8 bits costs in quality, and wins in time: the demo's data trained in the fastest dense
format of this machine and in int8-compute, from the same start in the same order."""

from __future__ import annotations

import sys
from dataclasses import replace

from common import Job, arguments, failures, machine, report, run_all, scratch, speeds, table

GOAL = 0.01  # of the held-out loss


def main() -> int:
    parser = arguments(__doc__, rows=280)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapter (%(default)s)")
    given = parser.parse_args()
    steps = 2 if given.smoke else max(1, given.rows // 8)
    dense = Job("dense", "quality", model=given.model, batch=8, steps=steps, dropout=given.dropout)
    jobs = [dense, replace(dense, name="int8-compute", storage="int8-compute")]
    facts = machine()
    with scratch() as folder:
        results = run_all(jobs, folder, smoke=given.smoke)
    exact, rounded = results
    if "would be slower on this machine" in rounded.get("error", ""):
        print(rounded["error"])
        report("int8", given, facts, {"rows": [exact]})
        return 0
    if code := failures(results):
        return code
    apart = rounded["held_out"][-1] / exact["held_out"][-1] - 1
    rows = [result | speeds(result) for result in results]
    header = ["base", "held-out before", "after", "examples/s", "peak GB"]
    print(table(header, [[row["name"], row["held_out"][0], row["held_out"][-1], row["examples_per_s"],
                          row["peak_bytes"] / 1e9] for row in rows]))  # fmt: skip
    print(f"\nheld-out loss after training: {100 * apart:+.2f} %; the goal is within {100 * GOAL:.0f} %")
    report("int8", given, facts, {"rows": rows, "apart": apart, "goal": GOAL})
    return int(abs(apart) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
