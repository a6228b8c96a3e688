"""Our losses against those of Trainer + PEFT, step by step: fp32, no dropout, the same examples in the same
order, the same starting adapter. Ours packs the examples and shares their beginnings; theirs takes one at a
time."""

from __future__ import annotations

import sys

from common import (
    Job,
    add_data,
    arguments,
    failures,
    machine,
    report,
    rows_job,
    run_all,
    scratch,
    table,
    whole_steps,
)

GOAL = 1e-3


def main() -> int:
    parser = arguments(__doc__, rows=320)
    add_data(parser)
    given = parser.parse_args()
    if given.smoke:
        given.rows = 32
    steps = whole_steps(given.rows)
    jobs = [
        Job("sapwood", "ours", model=given.model, storage="fp32", dropout=0, steps=steps),
        Job("trainer", "trainer-parity", model=given.model, storage="fp32", dropout=0, steps=steps),
    ]
    facts = machine()
    with scratch() as folder:
        results = run_all([rows_job(given), *jobs], folder, smoke=given.smoke)
    if code := failures(results):
        return code
    _, ours, theirs = results
    pairs = list(zip(ours["losses"], theirs["losses"], strict=True))
    apart = [abs(a - b) for a, b in pairs]
    steps_shown = [[step, a, b, f"{abs(a - b):.1e}"] for step, (a, b) in enumerate(pairs, start=1)]
    print(table(["step", "sapwood", "Trainer + PEFT", "apart"], [[s, f"{a:.5f}", f"{b:.5f}", d]
                                                                 for s, a, b, d in steps_shown]))  # fmt: skip
    print(f"\nlargest difference {max(apart):.1e} over {steps} steps; the goal is {GOAL:.0e}")
    report(
        "loss_parity",
        given,
        facts,
        {"ours": ours, "theirs": theirs, "apart": apart, "max_apart": max(apart), "goal": GOAL},
    )
    return int(max(apart) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
