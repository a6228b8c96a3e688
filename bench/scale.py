"""What a token costs as contexts grow (one example in a pack), and what an example costs as rows grow.

Only attention's work grows with the context: `expected` is the growth of all operations, counted from shapes
(linears 4 x weights a token; attention 6 x context x width x layers a token, causal, forward and backward). A
quarter of each example is learnt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from common import (
    BATCH,
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
)

PER_STEP, STEPS = 2, 2  # examples of one length in a step; the first step warms up


def main() -> int:
    parser = arguments(__doc__, rows=128)
    add_data(parser)
    parser.add_argument("--lengths", default="1024,2048,4096,8192", help="tokens of context (%(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers: slower, less memory")
    given = parser.parse_args()
    if given.smoke:
        given.lengths, given.rows = "64,128", 32
    lengths = [int(text) for text in given.lengths.split(",")]
    counts = sorted({whole_steps(given.rows // part) * BATCH for part in (1, 2, 4)} - {BATCH})
    facts = machine()
    with scratch() as folder:
        jobs = [*length_jobs(given, lengths), *row_jobs(given, counts)]
        results = run_all(jobs, folder, smoke=given.smoke)
    if code := failures(results):
        return code
    shapes = results.pop(0)
    trained = [result for result in results if result["who"] == "ours"]
    by_length = [
        grown(result, length, shapes) for result, length in zip(trained[: len(lengths)], lengths, strict=True)
    ]
    first = by_length[0]
    for row in by_length:
        row["growth"] = row["ms_per_token"] / first["ms_per_token"]
        row["expected"] = row["flops_per_token"] / first["flops_per_token"]
    by_rows: list[Result] = [result | speeds(result) for result in trained[len(lengths) :]]
    header = ["context", "ms a token", "growth", "expected", "peak GB"]
    print(table(header, [[row["length"], row["ms_per_token"], row["growth"], row["expected"],
                          row["peak_bytes"] / 1e9] for row in by_length]))  # fmt: skip
    print()
    print(table(["rows", "examples/s", "tokens/s", "peak GB"],
                [[sum(row["examples"]), row["examples_per_s"], row["tokens_per_s"], row["peak_bytes"] / 1e9]
                 for row in by_rows]))  # fmt: skip
    report("scale", given, facts, {"shapes": shapes, "by_length": by_length, "by_rows": by_rows})
    return 0


def length_jobs(given: argparse.Namespace, lengths: Sequence[int]) -> list[Job]:
    jobs = [Job("shapes", "rate", model=given.model, storage="bf16")]
    for length in lengths:
        work = Job(
            f"context-{length}",
            "ours",
            model=given.model,
            examples=f"context-{length}",
            batch=PER_STEP,
            steps=STEPS,
            pack_length=length,
            checkpointing=given.checkpointing,
        )
        sizes = (0, length - length // 4, length // 4)
        made = replace(work, name=f"prepare {work.name}", who="prepare", rows=PER_STEP * STEPS, sizes=sizes)
        jobs += [made, work]
    return jobs


def row_jobs(given: argparse.Namespace, counts: Sequence[int]) -> list[Job]:
    jobs = [rows_job(given, max(counts))]
    return jobs + [Job(f"rows-{count}", "ours", model=given.model, steps=count // BATCH) for count in counts]


def grown(result: Result, length: int, shapes: Result) -> Result:
    tokens, seconds = sum(result["tokens"][1:]), sum(result["seconds"][1:])
    head = 4 * shapes["head"] / 4  # for the quarter that is learnt
    attention = 6 * length * shapes["attention_width"] * shapes["layers"]
    return result | {
        "length": length,
        "ms_per_token": 1e3 * seconds / tokens,
        "flops_per_token": 4 * shapes["linear"] + head + attention,
    }


if __name__ == "__main__":
    sys.exit(main())
