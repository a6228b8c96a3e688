"""The finished adapter's folder: plain PEFT, plus one file with what must be true of the base it is put
on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sapwood.adapter.combine import How, combine
from sapwood.adapter.elsewhere.kind import base_named, told_base
from sapwood.adapter.facts import (
    ADAPTER_DIR,
    CARD,
    FACTS,
    AdapterFacts,
    base_place,
    read_facts,
    unproven,
    verify_adapter,
    write_facts,
)
from sapwood.adapter.files import WEIGHTS, write_adapter, write_files
from sapwood.adapter.full import write_model
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import inspect_base
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ModelError, Problem, SapwoodError
from sapwood.machine.doing import doing
from sapwood.run.files import operation, staged_dir
from sapwood.template.render import Renderer
from sapwood.types import Adapter, Base, BaseSpec


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
    named = Path(base.spec.source)
    facts = AdapterFacts(
        base=config.base.model_copy(update={"model": base.spec.source, "storage": base.storage}),
        base_fingerprint=base.spec.fingerprint,
        template_name=config.template.name,
        template_fingerprint=renderer.fingerprint,
        base_path=str(named.resolve()) if named.exists() else None,
        stop_ids=tuple(renderer.stop_ids),
        system=config.data.system,
        lora=config.lora.model_dump(mode="json") | {"targets": list(model.targets)},
        first_loss=losses[0] if losses else None,
        final_loss=losses[1] if losses else None,
        data_sha256=data["data_sha256"],
        proof=data["proof"],
    )
    with staged_dir(folder) as staging, doing("writing the adapter"):
        operation("write", staging / WEIGHTS)
        if model.method == "full":
            write_model(model, base.spec, renderer, staging)
        else:
            write_adapter(model, staging)
        if base.spec.new_tokens:  # which rows are whose, for whoever opens it in plain PEFT
            base.spec.tokenizer.save_pretrained(staging)
        _describe(facts, staging)
    return facts.adapter(folder)


def save_combined(
    folder: Path, parts: Sequence[Path], weights: Sequence[float], how: How, base: str | None = None
) -> Adapter:
    """Write the weighted sum of the adapters in ``parts`` to ``folder``, with the facts that they share. If
    one of them is of another program, nothing of the sum is proven either, and it is plain PEFT. ``base``:
    where their base lies now.

    Raises ModelError if they were trained on different bases or behind different templates.
    """
    known = [(part, read_facts(part)) for part in parts if (part / FACTS).is_file()]
    for part, _ in known:
        verify_adapter(part, sealed=False)
    problems = [
        Problem(f"{part} was trained {where} than {known[0][0]}", str(part), "their sum means nothing")
        for part, facts in known[1:]
        for where, same in (
            ("on another base", facts.base_fingerprint == known[0][1].base_fingerprint),
            ("behind another template", facts.template_fingerprint == known[0][1].template_fingerprint),
        )
        if not same
    ]
    if problems:
        raise ModelError(problems)
    spec = found_base(known[0][1], known[0][0], base) if known else foreign_base(parts[0], base)
    with doing(f"adding up {len(parts)} adapters"):
        tensors, settings = combine(spec, parts, weights, how)
    combined = [{"adapter": str(part), "weight": weight} for part, weight in zip(parts, weights, strict=True)]
    facts = known[0][1] if known else unproven(BaseConfig(model=spec.source))
    lora = dict(facts.lora) | {
        "method": "lora", "rank": settings["r"], "alpha": settings["lora_alpha"],
        "targets": sorted(settings["target_modules"]),
    }  # fmt: skip
    facts = replace(
        facts,
        base=facts.base.model_copy(update={"model": spec.source}),
        lora=lora,
        first_loss=None,
        final_loss=None,
        combined={"how": how, "parts": combined},
    )
    with staged_dir(folder) as staging, doing(f"writing {folder.name}"):
        write_files(tensors, settings, staging)
        if len(known) == len(parts):
            _describe(facts, staging)
    return facts.adapter(folder)


def load_adapter(folder: Path, *, sealed: bool = True) -> Adapter:
    """The facts of a finished adapter, after its manifest was verified. ``sealed``: it must have one."""
    verify_adapter(folder, sealed=sealed)
    return read_facts(folder).adapter(folder)


def found_base(facts: AdapterFacts, adapter: Path, base: str | None = None) -> BaseSpec:
    """The base that an adapter was trained on, from ``base`` or else from where it lay.

    Raises ModelError: it isn't there, or it has another fingerprint.
    """
    spec = inspect_base(facts.base.model_copy(update={"model": base or base_place(facts, adapter)}))
    if facts.base_fingerprint is not None and spec.fingerprint != facts.base_fingerprint:
        raise ModelError(
            f"{spec.source} is not the base that this adapter was trained on",
            str(adapter),
            f"trained on {facts.base_fingerprint}, found {spec.fingerprint} at {spec.path}",
            "name the right one with --base, put the original weights back there, or train on the new ones",
        )
    return spec


def foreign_base(place: Path, base: str | None) -> BaseSpec:
    """The base of an adapter of another program: ``base``, or the one that its files name. Raises
    ModelError."""
    name = base_named(place, base)
    try:
        return found_base(unproven(BaseConfig(model=name)), place)
    except SapwoodError as error:
        if base is not None:
            raise
        why = f"the adapter names {told_base(place)}; {error.problems[0].what}"
        raise ModelError(
            "the adapter's base isn't there", str(place), why, "name the base: --base MODEL"
        ) from None


def _describe(facts: AdapterFacts, folder: Path) -> None:
    write_facts(facts, folder)
    (folder / CARD).write_text(_card(facts.to_json()), encoding="utf-8")


def _card(facts: Mapping[str, Any]) -> str:
    lora = facts["lora"]
    loss = ""
    if facts["final_loss"] is not None:
        loss = f"Held-out loss: {facts['first_loss']:.4f} before, {facts['final_loss']:.4f} after training.\n"
    what, shape, opened = _described(lora, str(facts["base"]))
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


def _described(lora: Mapping[str, Any], base: str) -> tuple[str, str, str]:
    """Title, figures, and how to open it."""
    peft = """    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")"""
    if base.endswith(".gguf"):  # PEFT finds folders and names of a hub only
        peft = f"""    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained("folder/of/the/base", gguf_file="{Path(base).name}")
    model = PeftModel.from_pretrained(base, "path/to/this/folder")"""
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
