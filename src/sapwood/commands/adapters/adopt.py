"""``sapwood adopt``: gives an adapter of another program the facts that our own adapters have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.adapter.facts import FACTS, AdapterFacts, write_facts
from sapwood.adapter.files import WEIGHTS, write_files
from sapwood.commands.eval import prepare_file
from sapwood.config.sections import BaseConfig, DataConfig, RunConfig, TemplateConfig
from sapwood.errors import ConfigError, ModelError, row_count
from sapwood.evaluate import row_losses
from sapwood.run.files import staged_dir, to_json, write_atomic
from sapwood.serve.foreign import Foreign, read_foreign
from sapwood.serve.load import Loaded, open_foreign
from sapwood.types import Message

ASKED = ("Who are you?", "What is two and two?", "Write a word about trees.")
LEAST = 1e-4  # nats: an adapter that moves log p by less does nothing
METHODS = {"LORA": "lora", "IA3": "ia3"}


def adopt_adapter(
    place: Path,
    runs: Path,
    *,
    base: str | None,
    template: str | None,
    system: str | None,
    data: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Prove an adapter and write ``sapwood.json``: beside PEFT's own files, or in ``out`` with the adapter in
    PEFT's format. Raises ConfigError and ModelError with the reasons against it."""
    if not is_adapter(place):
        raise ModelError("no adapter lies there", str(place), "neither PEFT's, nor mlx-lm's, nor a GGUF file")
    if (place / FACTS).is_file():
        raise ConfigError("the adapter is one of ours already", str(place / FACTS))
    if out is None and not (place / WEIGHTS).is_file():
        why = "it is converted to PEFT's format, and its own files stay as they are"
        raise ConfigError("a folder is needed", "--out", why, "--out DIR")
    found = read_foreign(place, base, template)
    loaded = open_foreign(found, place, str(place), exact=False)
    proof = _proof(loaded, data, template, system)
    facts = _facts(found, loaded, template, system, proof)
    if out is None:
        write_atomic(place / FACTS, to_json(facts.to_json()).encode())
    else:
        with staged_dir(out) as staging:
            write_files(
                found.tensors, found.settings | {"base_model_name_or_path": found.spec.source}, staging
            )
            write_facts(facts, staging)
            if (place / "tokenizer.json").is_file():
                found.spec.tokenizer.save_pretrained(staging)
    written = out or place
    if as_json:
        print(to_json({"path": str(written), **facts.to_json()}), end="")
        return
    print(f"base       {found.spec.source}, fingerprint {found.spec.fingerprint[:12]}")
    print(f"template   {facts.template_name}; answers end on {loaded.renderer.stop_text}")
    print(f"proof      log p moves by {proof['moved']:.4f} nat over {len(ASKED)} questions")
    if "rows" in proof:
        losses = f"{proof['base_loss']:.4f} of the base, {proof['adapter_loss']:.4f} with the adapter"
        print(f"           loss on {row_count(proof['rows'])}: {losses}")
    print(f"written    {written / FACTS}")


def moved(loaded: Loaded) -> float:
    """Mean |difference of log p|, in nats, that the adapter makes on a few questions. Raises ModelError if
    it makes none, or none that is a number."""
    gaps: list[float] = []
    for text in ASKED:
        ids = torch.tensor([loaded.renderer.prompt_ids([Message("user", text)])])
        ids = ids.to(next(loaded.network.parameters()).device)
        with torch.no_grad():
            own = loaded.network(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            with loaded.without_adapter():
                alone = loaded.network(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        size = min(own.shape[-1], alone.shape[-1])
        gaps.append(float((own[..., :size] - alone[..., :size]).abs().mean()))
    mean = sum(gaps) / len(gaps)
    if loaded.model is not None and not mean > LEAST:
        why = f"its answers are the base's: log p moves by {mean:.1e} nat"
        raise ModelError("the adapter does nothing", loaded.name, why)
    return mean


def _proof(loaded: Loaded, data: Path | None, template: str | None, system: str | None) -> dict[str, Any]:
    proof: dict[str, Any] = {"adopted": True, "moved": moved(loaded)}
    if data is None:
        return proof
    rows = DataConfig(train=(str(data),), system=system)
    config = RunConfig(data=rows, template=TemplateConfig(name=template or "auto"))
    examples = prepare_file(data, config, loaded)
    assert loaded.model is not None
    weight = sum(example.weight for example in examples)
    with loaded.without_adapter():
        base = float(row_losses(loaded.model, examples, alone=loaded.base.head).sum()) / weight
    own = float(row_losses(loaded.model, examples).sum()) / weight
    if not own < base:
        why = f"its loss on {row_count(len(examples))} is {own:.4f}, that of the base alone {base:.4f}"
        mend = "name the base and the template that it was trained with, or rows that it was trained on"
        raise ModelError("the adapter doesn't know these rows", str(data), why, mend)
    return proof | {"rows": len(examples), "base_loss": base, "adapter_loss": own}


def _facts(
    found: Foreign, loaded: Loaded, template: str | None, system: str | None, proof: dict[str, Any]
) -> AdapterFacts:
    settings, source = found.settings, Path(found.spec.source)
    kind = settings["peft_type"]
    method = (
        "dora" if settings.get("use_dora") else "rslora" if settings.get("use_rslora") else METHODS.get(kind)
    )
    assert loaded.model is not None
    rank = settings.get("r", settings.get("init_r", 0))
    lora = {"method": method or kind.lower(), "rank": rank, "alpha": settings.get("lora_alpha", rank)}
    return AdapterFacts(
        base=BaseConfig(model=found.spec.source, storage=loaded.base.storage),  # type: ignore[arg-type]
        base_fingerprint=found.spec.fingerprint,
        template_name=template or "auto",
        template_fingerprint=loaded.renderer.fingerprint,
        base_path=str(source.resolve()) if source.exists() else None,
        stop_ids=tuple(loaded.renderer.stop_ids),
        system=system,
        lora=lora | {"targets": list(loaded.model.targets)},
        first_loss=proof.get("base_loss"),
        final_loss=proof.get("adapter_loss"),
        proof=proof,
    )
