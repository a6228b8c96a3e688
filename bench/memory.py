"""The memory plan against real runs: predicted and measured peak of resident memory.

Each combination is planned and trained for a few steps, evaluations and sample answers included, by `sapwood
train`'s own code in a fresh process. Exit code 1 where a prediction is further off than ``--within``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Job, Result, arguments, failures, machine, report, run_all, scratch, table

SMOLLM2, GEMMA = "builtin:smollm2", "builtin:gemma3-270m"
ROW_TOKENS = 50  # of a short row, its shared beginning not counted


def case(name: str, model: str, storage: str, length: int, *, long: bool = False, **more: Any) -> Job:
    """``long``: rows of more than half a pack each, in place of many short ones."""
    batch = 3 if long else max(4, int(1.3 * length / ROW_TOKENS))
    sizes = (length // 4, length // 4) if long else ()
    return Job(
        name, "memory", model=model, storage=storage, pack_length=length, batch=batch, sizes=sizes, **more
    )


CASES = (
    case("smollm2 fp32 512", SMOLLM2, "fp32", 512),
    case("smollm2 bf16 256", SMOLLM2, "bf16", 256),
    case("smollm2 bf16 512, samples", SMOLLM2, "bf16", 512, samples=8),
    case("smollm2 bf16 1024", SMOLLM2, "bf16", 1024),
    case("smollm2 bf16 2048", SMOLLM2, "bf16", 2048),
    case("smollm2 bf16 1024, rank 64", SMOLLM2, "bf16", 1024, rank=64),
    case("smollm2 bf16 1024, 15 recomputed", SMOLLM2, "bf16", 1024, recomputed=15),
    case("smollm2 bf16 1024, all recomputed", SMOLLM2, "bf16", 1024, recomputed=30),
    case("smollm2 fp32 1024, all recomputed", SMOLLM2, "fp32", 1024, recomputed=30),
    case("smollm2 bf16 2048, long rows", SMOLLM2, "bf16", 2048, long=True),
    case("smollm2 bf16 2048, long rows, all recomputed", SMOLLM2, "bf16", 2048, long=True, recomputed=30),
    case("smollm2 gguf 512", SMOLLM2, "gguf", 512),
    case("smollm2 nf4 512", SMOLLM2, "nf4", 512),
    case("gemma3 bf16 512", GEMMA, "bf16", 512),
    case("gemma3 bf16 1024, all recomputed", GEMMA, "bf16", 1024, recomputed=18),
    case("gemma3 fp32 256, samples", GEMMA, "fp32", 256, samples=4),
    case("tiny fp32 512", "tiny", "fp32", 512),
    case("medium fp32 1024, samples", "medium", "fp32", 1024, samples=8),
    case("medium bf16 2048, rank 64", "medium", "bf16", 2048, rank=64),
)
SHORT = (  # each storage, a long pack, layers computed twice
    "smollm2 fp32 512",
    "smollm2 bf16 512, samples",
    "smollm2 bf16 1024, all recomputed",
    "smollm2 gguf 512",
    "smollm2 nf4 512",
)


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("--only", action="append", default=[], help="a case of this name")
    parser.add_argument("--short", action="store_true", help="five of them, which fit into eight minutes")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of each run (%(default)s)")
    parser.add_argument(
        "--within", type=float, default=0.15, help="largest share it may be off (%(default)s)"
    )
    given = parser.parse_args()
    only = given.only or (SHORT if given.short else [])
    chosen = [job for job in CASES if not only or job.name in only]
    if given.smoke:
        chosen, given.steps, given.within = [CASES[0], replace(CASES[2], recomputed=1)], 2, 1e9
    facts = machine()
    with scratch() as folder:
        rows = run_all([replace(job, steps=given.steps) for job in chosen], folder, smoke=given.smoke)
    good = [row for row in rows if "error" not in row]
    for row in good:
        row["off"] = row["predicted"] / row["peak_bytes"] - 1
    header = ["case", "pack", "predicted MB", "measured MB", "off"]
    print(table(header, [[row["name"], row["pack"], row["predicted"] / 1e6, row["peak_bytes"] / 1e6,
                          f"{100 * row['off']:+.1f} %"] for row in good]))  # fmt: skip
    off = [row["off"] for row in good] or [0.0]
    report("memory", given, facts, {"rows": rows, "off": {"least": min(off), "most": max(off)}})
    return failures(rows) or int(any(abs(row["off"]) > given.within for row in good))


def planned(job: Job) -> Result:
    """The measured side: plan, then train as `sapwood train` does."""
    from sapwood.config.file import parse_config
    from sapwood.machine.device import CPU
    from sapwood.pipeline import train_study
    from sapwood.plan.choose import choose_plan
    from sapwood.prepare.study import study_config
    from workers import model_source, peak_rss

    with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as folder:
        data = long_rows(Path(folder), job.sizes) if job.sizes else "builtin:nursery"
        config = parse_config(
            {
                "base": {"model": model_source(job), "storage": job.storage},
                "data": {"train": data, "eval": max(2, job.samples)},
                "template": {"name": "gemma-2" if "gemma" in job.model else "auto", "overlong": "drop"},
                "pack": {"length": job.pack_length},
                "lora": {"rank": job.rank},
                "train": {
                    "batch_size": job.batch,
                    "max_steps": job.steps,
                    "gradient_checkpointing": job.recomputed,
                },
                "eval": {"samples": job.samples, "max_new_tokens": 32},
                "save": {"dir": folder},
            }
        )
        study = study_config(config)
        plan = choose_plan(study, config, CPU).plan
        train_study(config, study)
    import torch

    return {
        "predicted": plan.peak,
        "peak_bytes": peak_rss(),
        "plan": plan.to_json(),
        "pack": job.pack_length,
        "threads": torch.get_num_threads(),
    }


def long_rows(folder: Path, sizes: Sequence[int]) -> str:
    """A file of rows whose prompt and answer have about as many words as ``sizes`` says."""
    from sapwood.data.files.sources import read_rows

    words = " ".join(" ".join(row.value.values()) for row in read_rows(["builtin:nursery"])).split()
    prompt, answer = sizes
    rows = [
        {
            "prompt": " ".join(words[at : at + prompt]),
            "completion": " ".join(words[at + prompt : at + prompt + answer]),
        }
        for at in range(0, 16 * 97, 97)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
