"""The unpacked way: a model whose layers mix tokens otherwise than by attention, each row with a pass of its
own. Ours against Trainer with PEFT on the same model and the same examples, in turns.

The model is random, of the size that is asked for: what it says doesn't matter, what it computes does. Its
tokenizer is the built-in model's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import (
    Job,
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
)

KINDS = ("lfm2", "qwen3_5_text", "qwen3_next", "falcon_h1", "mamba2")


def main() -> int:
    parser = arguments(__doc__, rows=32)
    parser.add_argument("--kind", default="qwen3_5_text", help=f"{', '.join(KINDS)} … (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="layers (%(default)s)")
    parser.add_argument("--hidden", type=int, default=512, help="width, a multiple of 64 (%(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=1, help="rounds of turns; the median counts (%(default)s)"
    )
    given = parser.parse_args()
    given.data = None
    steps, facts = whole_steps(given.rows), machine()
    with scratch() as folder:
        if not given.smoke:
            given.model = str(written(given, Path(folder) / "model"))
        jobs = [
            Job("sapwood", "ours", "each row alone", given.model, steps=steps, pack_length=1024),
            Job("trainer-fp32-1x16", "trainer", "fp32, 1 x 16", given.model, storage="fp32", steps=steps),
            Job(
                "trainer-fp32-4x4",
                "trainer",
                "fp32, 4 x 4",
                given.model,
                storage="fp32",
                steps=steps,
                micro=4,
            ),
            Job("trainer-bf16-1x16", "trainer", "bf16, 1 x 16", given.model, storage="bf16", steps=steps),
        ]
        prepared, *results = run_all([rows_job(given), *given.repeat * jobs], folder, smoke=given.smoke)
    rows = summarise(results)
    if code := failures([prepared, *rows]):
        return code
    best = max(row["examples_per_s"] for row in rows if row["who"] != "ours")
    rows = [row | {"speed_vs_best_peer": row["examples_per_s"] / best} for row in rows]
    header = ["who", "configuration", "examples/s", "tokens/s", "peak GB", "first losses", "x best peer"]
    print(f"{given.kind}, {given.layers} layers of {given.hidden}: {prepared['tokens']:,} tokens\n")
    print(table(header, [shown(row) for row in rows]))
    report("unpacked", given, facts, {"data": prepared, "rows": rows})
    return 0


def shown(row: dict[str, Any]) -> list[object]:
    losses = " ".join(f"{loss:.3f}" for loss in row["losses"][:2])
    speed = [row["examples_per_s"], row["tokens_per_s"], row["peak_bytes"] / 1e9]
    return [row["name"], row["note"], *speed, losses, row["speed_vs_best_peer"]]


def written(given: Any, folder: Path) -> Path:
    """A random model of that kind in Hugging Face layout."""
    import torch
    from transformers import CONFIG_MAPPING

    from sapwood.base.inspect import inspect_base
    from sapwood.base.network.parts import text_class
    from sapwood.config.sections import BaseConfig

    tokenizer = inspect_base(BaseConfig(model="builtin:smollm2")).tokenizer
    heads = given.hidden // 64
    config: Any = CONFIG_MAPPING[given.kind](
        vocab_size=len(tokenizer), hidden_size=given.hidden, intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    text_class(config)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
