"""How near the job comes to what the machine's matrix products allow.

The operations that the job needs are counted from shapes: 4 x weights of all linears x computed tokens
(forward, and the gradient of the input; the weights are frozen) + 4 x weights of the head x targets. The
adapter, attention, norms and the optimizer are not counted: their time is what is lost. The machine's rate is
the highest that was measured before and after, at the model's own shapes or at a large square. Attention's
share of all operations, rotary positions included, is what torch's profiler says of the same steps, run once
more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from common import (
    Job,
    Result,
    add_data,
    arguments,
    failures,
    machine,
    report,
    rows_job,
    run_all,
    scratch,
    speeds,
    table,
    whole_steps,
    without_hopeless,
)


def main() -> int:
    parser = arguments(__doc__, rows=64)
    add_data(parser)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapter (%(default)s)")
    parser.add_argument("--pack-length", type=int, default=768, help="tokens of a pack (%(default)s)")
    parser.add_argument("--only", choices=["bf16", "fp32"], help="one format instead of both")
    given = parser.parse_args()
    if given.smoke:
        given.rows = 32
    steps = whole_steps(given.rows)
    both = ["bf16", "fp32"]
    formats = [given.only] if given.only else both if given.smoke else without_hopeless(both)
    jobs: list[Job] = []
    for storage in formats:
        before = Job(
            f"rate-{storage}", "rate", model=given.model, storage=storage, pack_length=given.pack_length
        )
        work = replace(before, name=f"sapwood-{storage}", who="ours", dropout=given.dropout, steps=steps)
        profiled = replace(work, name=f"profile-{storage}", profiled=True)
        jobs += [before, work, replace(before, name=f"rate-{storage}-after"), profiled]
    facts = machine()
    with scratch() as folder:
        results = run_all([rows_job(given), *jobs], folder, smoke=given.smoke)
    if code := failures(results):
        return code
    rows = [share(results[at : at + 4]) for at in range(1, len(results), 4)]
    header = ["format", "examples/s", "needed GFLOP/step", "reached GFLOP/s", "at model shapes", "square",
              "share", "attention", "peak GB"]  # fmt: skip
    lines = [
        [row["storage"], row["examples_per_s"], row["needed"] / 1e9, row["reached"] / 1e9,
         row["rates"]["model_shapes"] / 1e9, row["rates"]["square"] / 1e9, f"{100 * row['share']:.0f} %",
         f"{100 * row['attention_share']:.1f} %",
         row["peak_bytes"] / 1e9]
        for row in rows
    ]  # fmt: skip
    print(table(header, lines))
    report("limit", given, facts, {"rows": rows})
    return 0


def share(four: Sequence[Result]) -> Result:
    """The rate before, the work, the rate after, the profile: needed operations a second, of the highest
    rate; and attention's part of the time."""
    before, work, after, profiled = four
    attention: dict[str, float] = profiled["attention"]
    everything = attention.pop("all")
    late = slice(1, None) if len(work["seconds"]) > 1 else slice(None)
    tokens, targets, seconds = (sum(work[key][late]) for key in ("computed", "targets", "seconds"))
    needed = 4 * before["linear"] * tokens + 4 * before["head"] * targets
    rates = {key: max(before["flops_per_s"][key], after["flops_per_s"][key]) for key in before["flops_per_s"]}
    reached = needed / seconds
    steps = len(work["seconds"][late])
    return (
        work
        | speeds(work)
        | {
            "needed": needed / steps,
            "reached": reached,
            "rates": rates,
            "share": reached / max(rates.values()),
            "attention": attention,
            "attention_share": sum(attention.values()) / everything,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
