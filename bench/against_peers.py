"""The same fine-tuning job by sapwood and by the libraries that the tutorials use, in turns.

Everybody gets the same model, the same tokens, the same order and the same hyperparameters: LoRA r=8, alpha
32, dropout 0.1 on all linears, 16 examples a step, learning rate 1e-4. `trainer-literal` is the tutorials'
recipe as it is written; the other peers are the best settings of the same libraries that we know of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
    summarise,
    table,
    whole_steps,
    without_hopeless,
)

LITERAL, OURS, OURS_INT8 = "trainer-literal", "sapwood", "sapwood-int8"
BEST_KNOWN = ("trainer-bf16-1x16", "trainer-fp32-1x16")  # which of them depends on the processor


def peer(name: str, note: str, micro: int = 1, **more: Any) -> Job:
    """A configuration of Trainer or SFTTrainer; ``micro`` examples in a forward pass, 16 in a step."""
    who = "trl" if name.startswith("trl") else "trainer"
    job = Job(name, who, f"{note}, {micro} x {BATCH // micro}", storage="bf16", micro=micro)
    return replace(job, **more)


PACK = 768  # tokens of our packs: longer ones are faster, and take more memory
CASES = (
    Job(OURS, "ours", f"base in the faster format here, packs of {PACK}", pack_length=PACK),
    Job("sapwood-fp32", "ours", f"fp32, packs of {PACK}", storage="fp32", pack_length=PACK),
    Job(OURS_INT8, "ours", f"int8-compute, packs of {PACK}", storage="int8-compute",
        pack_length=PACK),
    peer(LITERAL, "bf16, gradient checkpointing", 4, checkpointing=True),
    peer("trainer-bf16-1x16", "bf16"),
    peer("trainer-bf16-2x8", "bf16", 2),
    peer("trainer-bf16-4x4", "bf16", 4),
    peer("trainer-fp32-1x16", "fp32", storage="fp32"),
    peer("trainer-fp32-4x4", "fp32", 4, storage="fp32"),
    peer("trainer-bf16-adapter", "bf16, adapter in bf16 too", bf16_adapter=True),
    peer("trainer-autocast", "bf16 and autocast", autocast=True),
    peer("trl-bf16-1x16", "bf16"),
    peer("trl-bf16-4x4", "bf16", 4),
    peer("trl-fp32-4x4", "fp32", 4, storage="fp32"),
    peer("trl-padding-free", "bf16, padding-free", 4, padding_free=True),
    Job("trl-packing-1024", "trl", "bf16, packs of 1024 (bfd), own batches", storage="bf16", packing=True,
        pack_length=1024),
    Job("trl-packing-512", "trl", "bf16, packs of 512 (bfd), own batches", storage="bf16", packing=True),
)  # fmt: skip
# Only when asked for: compiling takes minutes, which a run this short can't win back.
ON_REQUEST = (peer("trainer-compiled", "bf16, torch.compile", fused=True),)
SHORT = (OURS, OURS_INT8, LITERAL, *BEST_KNOWN)


def main() -> int:
    parser = arguments(__doc__, rows=32)
    add_data(parser)
    names = ", ".join(job.name for job in (*CASES, *ON_REQUEST))
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {names}; may be repeated")
    parser.add_argument(
        "--repeat", type=int, default=1, help="rounds of turns; the median counts (%(default)s)"
    )
    parser.add_argument("--short", action="store_true", help=f"two steps of {', '.join(SHORT)}")
    given = parser.parse_args()
    if given.short:
        given.rows = 2 * BATCH
    jobs = [replace(job, model=given.model, steps=whole_steps(given.rows)) for job in chosen(given, parser)]
    facts = machine()
    with scratch() as folder:
        prepared, *results = run_all([rows_job(given), *given.repeat * jobs], folder, smoke=given.smoke)
    if "error" in prepared:
        return failures([prepared])
    rows = with_ratios(summarise(results))
    print(f"{prepared['rows']} examples, {prepared['tokens']:,} tokens, {prepared['targets']:,} learnt\n")
    print(shown(rows))
    report("against_peers", given, facts, {"data": prepared, "rows": rows})
    return failures(rows)


def chosen(given: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Job]:
    """Those that are asked for by name, else all that this processor gets to an end in bearable time."""
    known = {job.name: job for job in (*CASES, *ON_REQUEST)}
    if odd := [name for name in given.only or () if name not in known]:
        parser.error(f"no case is called {', '.join(odd)}; there are {', '.join(known)}")
    if given.only:
        return [known[name] for name in given.only]
    jobs = [known[name] for name in (SHORT if given.short else [job.name for job in CASES])]
    if given.isa == "avx2":
        print("left out: int8-compute, which torch's own choice of kernels does not narrow to AVX2")
        jobs = [job for job in jobs if job.storage != "int8-compute"]
    bearable = without_hopeless(job.storage for job in jobs if job.who != "ours")
    return [job for job in jobs if job.who == "ours" or job.storage in bearable]


def with_ratios(rows: Sequence[Result]) -> list[Result]:
    """Each row with its speed and memory against the literal recipe, and against the fastest peer."""
    good = {row["name"]: row for row in rows if "error" not in row}
    peers = [row for row in good.values() if row["who"] != "ours"]
    best = max(peers, key=lambda row: row["examples_per_s"], default=None)
    out: list[Result] = []
    for row in rows:
        ratios: Result = {}
        for key, other in (("literal", good.get(LITERAL)), ("best_peer", best)):
            if other is None or "error" in row:
                continue
            ratios[f"speed_vs_{key}"] = row["examples_per_s"] / other["examples_per_s"]
            ratios[f"memory_vs_{key}"] = row["peak_bytes"] / other["peak_bytes"]
        out.append(row | ratios | {"best_peer": row is best})
    return out


def shown(rows: Sequence[Result]) -> str:
    header = ["who", "configuration", "examples/s", "with 1st step", "tokens/s", "peak GB",
              "first losses", "x literal", "x best peer", "memory x best peer"]  # fmt: skip
    lines: list[list[object]] = []
    for row in rows:
        if "error" in row:
            lines.append([row["name"], f"failed: {row['error']}"[:60], *[None] * 8])
            continue
        losses = " ".join(f"{loss:.3f}" for loss in row["losses"][:2])
        speed = [
            row["examples_per_s"],
            row["examples_per_s_all"],
            row["tokens_per_s"],
            row["peak_bytes"] / 1e9,
        ]
        ratios = [row.get(key) for key in ("speed_vs_literal", "speed_vs_best_peer", "memory_vs_best_peer")]
        mark = " (best peer)" if row["best_peer"] else ""
        lines.append([row["name"] + mark, row["note"], *speed, losses, *ratios])
    return table(header, lines)


if __name__ == "__main__":
    sys.exit(main())
