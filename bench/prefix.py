"""A long system prompt that all rows share (for example tool definitions) and short answers: the case that
prefix sharing is for. Ours against the peers that are fastest at it: whole rows one at a time, unpadded."""

from __future__ import annotations

import sys

from common import (
    BATCH,
    Job,
    arguments,
    failures,
    machine,
    report,
    run_all,
    scratch,
    summarise,
    table,
    whole_steps,
)


def main() -> int:
    parser = arguments(__doc__, rows=32)
    parser.add_argument("--prefix", type=int, default=600, help="tokens that all rows share (%(default)s)")
    parser.add_argument("--question", type=int, default=20, help="tokens of a question (%(default)s)")
    parser.add_argument("--answer", type=int, default=60, help="tokens of an answer, learnt (%(default)s)")
    parser.add_argument("--pack-length", type=int, default=2048, help="tokens of our packs (%(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1, help="rounds of turns; the median counts (%(default)s)"
    )
    parser.add_argument("--short", action="store_true", help="without TRL, which is no faster than Trainer")
    given = parser.parse_args()
    if given.smoke:
        given.prefix, given.question, given.answer = 96, 8, 12
    steps = whole_steps(given.rows)
    sizes = (given.prefix, given.question, given.answer)
    made = Job("prepare", "prepare", model=given.model, rows=steps * BATCH, sizes=sizes)
    jobs = [
        Job("sapwood", "ours", "shared prefix computed once a pack", given.model, steps=steps,
            pack_length=given.pack_length),
        Job("trainer-fp32-1x16", "trainer", "fp32, 1 x 16", given.model, storage="fp32", steps=steps),
        Job("trainer-bf16-1x16", "trainer", "bf16, 1 x 16", given.model, storage="bf16", steps=steps),
    ]  # fmt: skip
    if not given.short:
        jobs.append(Job("trl-bf16-1x16", "trl", "bf16, 1 x 16", given.model, storage="bf16", steps=steps))
    facts = machine()
    with scratch() as folder:
        prepared, *results = run_all([made, *given.repeat * jobs], folder, smoke=given.smoke)
    rows = summarise(results)
    if code := failures([prepared, *rows]):
        return code
    best = max(row["examples_per_s"] for row in rows if row["who"] != "ours")
    rows = [row | {"speed_vs_best_peer": row["examples_per_s"] / best} for row in rows]
    header = ["who", "configuration", "examples/s", "with 1st step", "tokens/s", "peak GB", "x best peer"]
    keys = ("name", "note", "examples_per_s", "examples_per_s_all", "tokens_per_s")
    lines = [
        [*(row[key] for key in keys), row["peak_bytes"] / 1e9, row["speed_vs_best_peer"]] for row in rows
    ]
    print(f"{given.prefix} shared tokens, {given.question} of a question, {given.answer} learnt\n")
    print(table(header, lines))
    report("prefix", given, facts, {"data": prepared, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
