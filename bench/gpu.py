"""One GPU: tokens a second and peak memory beside transformers' Trainer with PEFT, in turns, in one call.

A random model of 7B's shape in nf4, and one of 1.5B's in bf16: batches of 16 rows of 512 tokens. The Trainer
has its best settings there: SDPA, bf16, gradient checkpointing, four rows at a time. Not run on a GPU yet;
``--smoke`` is the same code on a tiny model and a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from common import BATCH, Job, arguments, failures, machine, report, run_all, scratch, summarise, table

MODELS = {"7b": "nf4", "1.5b": "bf16"}  # shapes (`workers.SIZES`), and the storage of each
ROW = (32, 224, 256)  # tokens of a row: shared by all, its own, learnt


def turns_of(model: str, storage: str, steps: int, turns: int, device: str) -> list[Job]:
    """The rows, then one after the other, so often."""
    rows = Job(f"{model} rows", "prepare", model=model, rows=steps * BATCH, sizes=ROW)
    ours = Job(
        f"sapwood {model}", "ours", model=model, storage=storage, steps=steps, dropout=0.0, pack_length=2048,
        device=device,
    )  # fmt: skip
    theirs = replace(
        ours, name=f"Trainer {model}", who="trainer", micro=4, checkpointing=True, autocast=device != "cpu"
    )
    return [rows, *([ours, theirs] * turns)]


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each (%(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="turns of each (%(default)s)")
    given = parser.parse_args()
    device = "cpu" if given.smoke else "cuda"
    if given.smoke:
        given.steps, given.turns = 1, 1
    facts = machine()
    rows = []
    for model, storage in MODELS.items():
        with scratch() as folder:  # one model's files at a time
            jobs = turns_of(model, storage, given.steps, given.turns, device)
            rows += summarise(run_all(jobs, folder, smoke=given.smoke)[1:])
    good = [row for row in rows if "error" not in row]
    header = ["who", "storage", "tokens/s", "peak GB"]
    lines = [[row["name"], row["storage"], row["tokens_per_s"], row["peak_bytes"] / 1e9] for row in good]
    print(table(header, lines))
    report("gpu", given, facts, {"rows": rows})
    return failures(rows)


if __name__ == "__main__":
    raise SystemExit(main())
