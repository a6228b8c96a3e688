"""Every method on the real SmolLM2: it trains, resumes to the same bytes, chats, and opens in plain PEFT.

    python bench/methods.py                     all of them, two runs of three steps each
    python bench/methods.py --only pissa        one (may be repeated)

`tests/test_methods.py` has the same on a tiny model. Here the base is written as a folder once, and
transformers and PEFT open that, as somebody without sapwood would. Exit code 1 where anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from common import Result, arguments, failures, machine, report, table

STEPS, STOP_AFTER = 3, 2
TOLERANCE = 1e-4  # largest difference of two logits, fp32
NEW_TOKENS = 8
PROMPT = "When should I plant an apple tree?"
LEARNING_RATES = {"full": 2e-5, "ia3": 1e-2, "prompt": 1e-2, "p-tuning": 1e-3, "prefix": 1e-2}


def main() -> int:
    from sapwood.config.kinds import Method

    parser = arguments(__doc__, rows=0)
    parser.add_argument("--only", action="append", choices=get_args(Method), help="a method, may be repeated")
    given = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="sapwood-methods-") as name:
        folder = Path(name)
        if given.smoke:
            from tests.base.tiny import tiny_llama

            given.model = str(tiny_llama(folder))
        plain_base = write_base(given.model, folder / "base")
        rows: list[Result] = []
        for method in given.only or get_args(Method):
            rows.append(measure(method, given.model, plain_base, folder / method))
            print(f"{method}: {rows[-1]}", file=sys.stderr, flush=True)
    header = ["method", "losses", "resumed to the same bytes", "tokens as plain PEFT", "logits apart", "s"]
    keys = ["name", "losses", "same_bytes", "same_tokens", "apart", "seconds"]
    print(table(header, [[shown(row.get(key)) for key in keys] for row in rows]))
    report("methods", given, facts, {"rows": rows, "tolerance": TOLERANCE})
    return failures([row if row.get("good") else {"error": "differs", **row} for row in rows])


def shown(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return " ".join(f"{loss:.3f}" for loss in value) if isinstance(value, list) else value


def write_base(model: str, folder: Path) -> Path:
    """The base in Hugging Face layout, fp32."""
    from sapwood.base.inspect import inspect_base
    from sapwood.base.load import load_base
    from sapwood.config.sections import BaseConfig

    config = BaseConfig(model=model, storage="fp32")
    base = load_base(inspect_base(config), config)
    base.model.save_pretrained(folder)
    return folder


def measure(method: str, model: str, plain_base: Path, folder: Path) -> Result:
    began = time.monotonic()
    try:
        found = try_method(method, model, plain_base, folder)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"name": method, "seconds": time.monotonic() - began, **found}


def try_method(method: str, model: str, plain_base: Path, folder: Path) -> Result:
    from sapwood import finetune, resume
    from sapwood.errors import Stopped
    from sapwood.run.query import find_run
    from sapwood.serve.load import open_target
    from sapwood.types import Event, Stepped

    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss)

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == STOP_AFTER:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = finetune(config_of(method, model, folder / "whole"), note).path
    try:
        finetune(config_of(method, model, folder / "stopped"), stop)
        raise RuntimeError("the signal stopped nothing")
    except Stopped:
        resumed = resume(find_run(folder / "stopped", "last")).path
    found: Result = {"losses": losses, "same_bytes": hashes(resumed) == hashes(whole)}
    found["answer"] = chat(whole.parent, folder / "whole")
    loaded = open_target(str(whole), folder)
    ids = loaded.tokenizer.encode(PROMPT)
    found |= compare(loaded, plain(method, plain_base, whole), ids, compare_logits=not lead(method))
    found["good"] = found["same_bytes"] and found["same_tokens"] and (found["apart"] or 0) <= TOLERANCE
    return found


def lead(method: str) -> bool:
    """Virtual tokens stand before the row: there the tokens are compared, and no logits by position."""
    return method in ("prompt", "p-tuning", "prefix")


def config_of(method: str, model: str, runs: Path) -> Any:
    from sapwood.config.file import parse_config

    quantised = {"storage": "nf4", "compute_dtype": "fp32"}
    return parse_config(
        {
            "base": {"model": model, **(quantised if method == "loftq" else {"storage": "fp32"})},
            "data": {"train": "builtin:nursery", "eval": 4},
            "pack": {"length": 512},
            "lora": {"method": method, "dropout": 0.0 if method == "pissa" else 0.1},
            "train": {
                "max_steps": STEPS,
                "batch_size": 4,
                "lr": LEARNING_RATES.get(method, 1e-3),
                "warmup": 0,
            },
            "eval": {"samples": 0},
            "save": {"dir": str(runs)},
        }
    )


def hashes(adapter: Path) -> Mapping[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(adapter.iterdir())}


def chat(run: Path, runs: Path) -> str:
    """What the command line answers."""
    from typer.testing import CliRunner

    from sapwood.cli import app

    told = CliRunner().invoke(
        app, ["chat", str(run), "--prompt", PROMPT, "--max-new-tokens", "16", "--runs", str(runs), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    if told.exit_code:
        raise RuntimeError(told.output)
    return json.loads(told.stdout)["answer"]


def plain(method: str, base: Path, adapter: Path) -> Any:
    """Without sapwood. In eval mode bitsandbytes rounds to bf16 on processors that have it; so not there."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if method == "full":
        return AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    quantised = settings if method == "loftq" else None
    network = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantised, dtype=torch.float32)
    model = PeftModel.from_pretrained(network, adapter).eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.training = True
    return model


def compare(ours: Any, theirs: Any, ids: list[int], *, compare_logits: bool) -> Result:
    """Our greedy answer, read by plain PEFT: its own greedy tokens there, and its logits."""
    import torch

    from sapwood.serve.generate import Settings, answer_batch

    (answer,) = answer_batch(ours.network, ours.tokenizer, [ids], (), Settings(max_new_tokens=NEW_TOKENS))
    said = torch.tensor([[*ids, *answer.ids]])
    with torch.no_grad():
        read = theirs(input_ids=said).logits[0, -len(answer.ids) - 1 : -1]
        own = ours.network(input_ids=said).logits[0, -len(answer.ids) - 1 : -1] if compare_logits else read
    return {
        "same_tokens": read.argmax(-1).tolist() == list(answer.ids),
        "apart": float((read - own).abs().max()) if compare_logits else None,
    }


if __name__ == "__main__":
    sys.exit(main())
