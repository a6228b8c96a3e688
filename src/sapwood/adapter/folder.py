"""The finished adapter's folder: plain PEFT, plus one file with what must be true of the base it is put
on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sapwood.adapter.combine import How, combine
from sapwood.adapter.full import write_model
from sapwood.adapter.lora import LoraModel, write_adapter, write_files
from sapwood.base.inspect import inspect_base
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ModelError, Problem
from sapwood.run.files import operation, staged_dir, to_json, verify_dir
from sapwood.template.render import Renderer
from sapwood.types import Adapter, Base

ADAPTER_DIR, FACTS, CARD = "adapter", "sapwood.json", "README.md"
SCHEMA = 1


def save_adapter(
    run: Path,
    model: LoraModel,
    base: Base,
    renderer: Renderer,
    data: Mapping[str, Any],
    config: RunConfig,
    losses: tuple[float, float] | None,
) -> Adapter:
    """Write ``adapter/``: staged, fsynced, with a manifest. The same run gives the same bytes.

    ``data``: the facts of what was learnt (`Study.facts`). ``losses``: the first and the last held-out loss.
    They come from the state and not from the event log, which a full disk may have left with gaps.
    """
    folder = run / ADAPTER_DIR
    facts = {
        "schema": SCHEMA,
        "base": base.spec.source,
        "base_fingerprint": base.spec.fingerprint,
        "storage": base.storage,
        "compute_dtype": config.base.compute_dtype,
        "double_quant": config.base.double_quant,
        "template_name": config.template.name,
        "template_fingerprint": renderer.fingerprint,
        "stop_ids": list(renderer.stop_ids),
        "system": config.data.system,
        "lora": config.lora.model_dump(mode="json") | {"targets": list(model.targets)},
        "first_loss": losses[0] if losses else None,
        "final_loss": losses[1] if losses else None,
        "data_sha256": data["data_sha256"],
        "proof": data["proof"],
    }
    with staged_dir(folder) as staging:
        operation("write", staging / "adapter_model.safetensors")
        if model.method == "full":
            write_model(model, base.spec, staging)
        else:
            write_adapter(model, staging)
        operation("write", staging / FACTS)
        (staging / FACTS).write_text(to_json(facts), encoding="utf-8")
        (staging / CARD).write_text(_card(facts), encoding="utf-8")
    return _adapter(folder, facts)


def save_combined(folder: Path, parts: Sequence[Adapter], weights: Sequence[float], how: How) -> Adapter:
    """Write the weighted sum of ``parts`` to ``folder``, with the facts that they share.

    Raises ModelError where they were trained on different bases or behind different templates.
    """
    first = parts[0]
    problems = [
        Problem(
            f"{part.path} was trained {where} than {first.path}", str(part.path), "their sum means nothing"
        )
        for part in parts[1:]
        for where, same in (
            ("on another base", part.base_fingerprint == first.base_fingerprint),
            ("behind another template", part.template_fingerprint == first.template_fingerprint),
        )
        if not same
    ]
    if problems:
        raise ModelError(problems)
    spec = inspect_base(BaseConfig(model=first.base))
    tensors, settings = combine(spec, [part.path for part in parts], weights, how)
    combined = [
        {"adapter": str(part.path), "weight": weight} for part, weight in zip(parts, weights, strict=True)
    ]
    lora = dict(first.facts["lora"]) | {
        "method": "lora", "rank": settings["r"], "alpha": settings["lora_alpha"],
        "targets": sorted(settings["target_modules"]),
    }  # fmt: skip
    facts = dict(first.facts) | {
        "lora": lora, "first_loss": None, "final_loss": None, "combined": {"how": how, "parts": combined},
    }  # fmt: skip
    with staged_dir(folder) as staging:
        write_files(tensors, settings, staging)
        (staging / FACTS).write_text(to_json(facts), encoding="utf-8")
        (staging / CARD).write_text(_card(facts), encoding="utf-8")
    return _adapter(folder, facts)


def load_adapter(folder: Path) -> Adapter:
    """The facts of a finished adapter, after its manifest was verified."""
    verify_dir(folder)
    try:
        return _adapter(folder, json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("adapter facts can't be read", str(folder / FACTS), str(error)) from None


def _adapter(folder: Path, facts: Mapping[str, Any]) -> Adapter:
    return Adapter(
        path=folder,
        base=facts["base"],
        base_fingerprint=facts["base_fingerprint"],
        template_fingerprint=facts["template_fingerprint"],
        rank=facts["lora"]["rank"],
        targets=tuple(facts["lora"]["targets"]),
        final_loss=facts["final_loss"],
        facts=facts,
    )


def _card(facts: Mapping[str, Any]) -> str:
    lora = facts["lora"]
    loss = ""
    if facts["final_loss"] is not None:
        loss = f"Held-out loss: {facts['first_loss']:.4f} before, {facts['final_loss']:.4f} after training.\n"
    what, shape, opened = _described(lora)
    return f"""---
library_name: {"transformers" if lora["method"] == "full" else "peft"}
tags: [{lora["method"]}, sapwood]
---
# {what} {facts["base"]}

{shape}
{loss}
Base fingerprint `{facts["base_fingerprint"][:16]}`, template fingerprint
`{facts["template_fingerprint"][:16]}`: put it on another base or behind another chat template and it is not
what was trained. `sapwood chat` checks both.

{opened}
"""


def _described(lora: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, figures, and how to open it."""
    peft = """    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, "path/to/this/folder")"""
    match lora["method"]:
        case "full":
            opened = """    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")"""
            return "Every weight of", "Full fine-tuning, fp32.", opened
        case "prompt" | "p-tuning" | "prefix":
            return "A soft prompt for", f"{lora['method']}, {lora['virtual_tokens']} virtual tokens.", peft
        case "ia3":
            return "An IA3 adapter for", f"On {', '.join(lora['targets'])}.", peft
        case method:
            figures = f"Rank {lora['rank']}, alpha {lora['alpha']:g}, on {', '.join(lora['targets'])}."
            note = "" if method in ("lora", "rslora") else f" Trained as {method}."
            return "A LoRA adapter for", figures + note, peft
