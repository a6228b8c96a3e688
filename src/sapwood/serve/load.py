"""What a person names (a run, an adapter, a base) as a model to talk to.

An adapter is put only on the base, and behind the template, that it was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sapwood.adapter.lora import (
    LoraModel,
    attach_lora,
    attach_saved,
    read_adapter,
    read_tensors,
    restore_adapter,
)
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base, place
from sapwood.base.storage.storages import FILLED, weight_bytes
from sapwood.config.file import load_config
from sapwood.config.sections import BaseConfig, LoraConfig, RunConfig
from sapwood.errors import ModelError, Problem, StorageError
from sapwood.machine.measure import available_memory
from sapwood.run.files import MANIFEST, verify_dir
from sapwood.run.query import find_run
from sapwood.run.store import CHECKPOINTS, CONFIG, RUN
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import Base, BaseSpec

FACTS, ADAPTER, WEIGHTS, MODEL = "sapwood.json", "adapter", "adapter_config.json", "config.json"
SCHEMA = 1
HOW_HELD = ("storage", "compute_dtype", "double_quant")  # keys of `base` that an adapter's facts repeat

# PEFT's settings under which an adapter is more than pairs of matrices on linears; each is empty in ours
UNKNOWN_FORMS = (
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layers_to_transform",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "fan_in_fan_out",
    "lora_bias",
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and all that it needs to be talked to as it was trained.

    Attributes:
        model: the adapter on the base, or None where a bare base was named.
        system: the system prompt that the adapter was trained with, if it was.
        name: what to call it: the run's id, the adapter's folder, or the base as the user wrote it.
        folder: where the adapter lies, or the model that was trained whole; None for a bare base.
    """

    base: Base
    model: LoraModel | None
    renderer: Renderer
    system: str | None
    name: str
    folder: Path | None = None

    @property
    def network(self) -> Any:
        """The module to run: a PeftModel or the base."""
        return self.base.model if self.model is None else self.model.peft

    @property
    def tokenizer(self) -> Any:
        return self.base.spec.tokenizer

    def without_adapter(self) -> AbstractContextManager[Any]:
        """While open, the network answers as the base alone."""
        return nullcontext() if self.model is None else self.model.switched_off()


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What must be true of the base and the template that an adapter is put on.

    Attributes:
        path: the adapter's folder.
        clock: the time that a template which asks for the date was told.
        meant: control tokens that an answer may spell and then means.
    """

    path: Path
    base: BaseConfig
    base_fingerprint: str
    template_name: str
    template_fingerprint: str
    system: str | None
    clock: datetime | None
    meant: tuple[str, ...] = ()


def open_target(target: str, runs: Path, *, exact: bool = False) -> Loaded:
    """Load what ``target`` names.

    Args:
        target: a run (its id, a beginning of it, its name, ``last``, its folder), an adapter's folder, or a
            base model (``builtin:NAME``, ``hf:ORG/NAME``, a folder, a ``.gguf`` file). Of an unfinished run
            the newest checkpoint is taken.
        runs: the folder of runs.
        exact: hold an adapter's base in fp32 where it was trained in a narrower float, and on the CPU.

    Raises:
        ConfigError: nothing is called that.
        ModelError: the base or the template is not the one that the adapter was trained on, or it is damaged.
    """
    path = Path(target)
    if (path / RUN).is_file():
        return _open_run(path, exact)
    if (path / FACTS).is_file() or (path / WEIGHTS).is_file():
        return open_adapter(path, target, exact=exact)
    if _names_a_base(target):
        return open_base(target)
    return _open_run(find_run(runs, target), exact)


def open_base(model: str) -> Loaded:
    """A base model without an adapter."""
    config = BaseConfig(model=model)
    spec = inspect_base(config)
    renderer = _renderer(spec, "auto", None)
    base = load_base(spec, config)
    place(base.model)
    return Loaded(base, None, renderer, None, model)


def open_adapter(folder: Path, name: str, *, exact: bool = False) -> Loaded:
    """An adapter's folder, as `save_adapter` writes it."""
    if not (folder / FACTS).is_file():
        raise ModelError(
            f"no {FACTS} in the adapter's folder",
            str(folder),
            "nothing says which base and which template it was trained on",
            "name the run, or an adapter folder that sapwood wrote",
        )
    if (folder / MANIFEST).is_file():
        verify_dir(folder)
    return _open(_read_facts(folder), name, exact)


# --- inside -----------------------------------------------------------------------------------------------


def _open_run(run: Path, exact: bool) -> Loaded:
    """The finished adapter, or else the newest checkpoint that verifies."""
    if (run / ADAPTER).is_dir():
        return open_adapter(run / ADAPTER, run.name, exact=exact)
    found = sorted((run / CHECKPOINTS).glob("step-[0-9]*"), key=lambda path: path.name, reverse=True)
    damaged: list[Problem] = []
    for checkpoint in found:
        try:
            verify_dir(checkpoint)
        except StorageError as error:
            damaged += error.problems
            continue
        config = load_config(run / CONFIG)
        return _open(_facts_of_run(run, checkpoint, config), f"{run.name} {checkpoint.name}", exact, config)
    if damaged:
        raise StorageError(damaged)
    raise ModelError(
        "the run has no adapter yet", str(run), "it has saved no checkpoint", f"sapwood resume {run}"
    )


def _open(facts: AdapterFacts, name: str, exact: bool, trained: RunConfig | None = None) -> Loaded:
    """``trained``: the config of the run, where a checkpoint is opened and not a finished adapter."""
    spec = inspect_base(facts.base)
    renderer = _renderer(spec, facts.template_name, facts.clock, facts.meant)
    _verify(facts, spec, renderer)
    if trained is None and (facts.path / MODEL).is_file():  # full fine-tuning: the folder is a model
        base = load_base(replace(spec, path=facts.path), facts.base)
        if not exact:
            place(base.model)
        return Loaded(base, None, renderer, facts.system, name, facts.path)
    base = load_base(spec, _exact(spec, facts.base) if exact else facts.base)
    model = _adapted(base, facts, trained)
    if not exact:  # an export is compared on the CPU, in fp32
        place(model.peft)
    adapter = None if model.method == "full" else model
    return Loaded(base, adapter, renderer, facts.system, name, facts.path)


def _adapted(base: Base, facts: AdapterFacts, trained: RunConfig | None) -> LoraModel:
    """The base with what was trained on it."""
    if trained is not None:
        model = attach_lora(base, trained.lora, trained.train.seed)
        restore_adapter(model, read_tensors(facts.path), facts.path)
        return model
    settings, tensors = read_adapter(facts.path)
    if settings["peft_type"] != "LORA":
        return attach_saved(base, facts.path)
    model = attach_lora(base, _lora_config(settings, facts.path / WEIGHTS))
    restore_adapter(model, tensors, facts.path)
    return model


def _verify(facts: AdapterFacts, spec: BaseSpec, renderer: Renderer) -> None:
    """Base and template are those of the training, or the answers would be those of another model."""
    problems: list[Problem] = []
    if spec.fingerprint != facts.base_fingerprint:
        problems.append(
            Problem(
                f"{spec.source} is not the base that this adapter was trained on",
                str(facts.path),
                f"trained on {facts.base_fingerprint}, found {spec.fingerprint} at {spec.path}",
                "put the original weights back there, or train on the new ones",
            )
        )
    if renderer.fingerprint != facts.template_fingerprint:
        problems.append(
            Problem(
                "the chat template is not the one that this adapter was trained with",
                str(facts.path),
                f"trained with {facts.template_fingerprint}, found {renderer.fingerprint} "
                f"(template.name {facts.template_name})",
                "put the tokenizer's files and the template back as they were, or train again",
            )
        )
    if problems:
        raise ModelError(problems)


def _renderer(
    spec: BaseSpec, template_name: str, clock: datetime | None, meant: tuple[str, ...] = ()
) -> Renderer:
    template = choose_template(spec.tokenizer, template_name)
    return Renderer(spec.tokenizer, template, spec.stop_ids, clock, meant)


def _read_facts(folder: Path) -> AdapterFacts:
    path = folder / FACTS
    tree = _read_json(path)
    if tree.get("schema") != SCHEMA:
        why = f"schema {tree.get('schema')!r}, this version reads {SCHEMA}"
        raise ModelError("adapter facts of another version", str(path), why, "update sapwood")
    base = {"model": tree.get("base"), **{key: tree[key] for key in HOW_HELD if key in tree}}
    return _facts(folder, path, tree, base, tree.get("template_name"))


def _facts_of_run(run: Path, checkpoint: Path, config: RunConfig) -> AdapterFacts:
    """A checkpoint holds weights only: what it stands on is the run's config and what the run recorded."""
    recorded = _read_json(run / RUN).get("facts")
    tree = {"system": config.data.system, **(recorded if isinstance(recorded, Mapping) else {})}
    return _facts(checkpoint, run / RUN, tree, config.base.model_dump(), config.template.name)


def _facts(
    folder: Path, source: Path, tree: Mapping[str, Any], base: Mapping[str, Any], template: Any
) -> AdapterFacts:
    """``source``: the file that ``tree`` came from; ``base``: the config's section. What is missing or no
    text is named."""
    values: dict[str, Any] = {
        "base": base.get("model"),
        "storage": base.get("storage"),
        "template_name": template,
    }
    values |= {key: tree.get(key) for key in ("base_fingerprint", "template_fingerprint")}
    system, proof = tree.get("system"), tree.get("proof") or {}
    clock, meant = proof.get("clock"), tuple(proof.get("meant", ()))
    missing = [key for key, value in values.items() if not _is_text(value)]
    wrong = [Problem(f"{key} is missing", str(source)) for key in missing]
    if not isinstance(system, str | None):
        wrong.append(Problem("system is no text", str(source)))
    if wrong:
        raise ModelError(wrong)
    try:
        return AdapterFacts(
            folder,
            BaseConfig(**base),
            values["base_fingerprint"],
            template,
            values["template_fingerprint"],
            system,
            None if clock is None else datetime.fromisoformat(clock),
            meant,
        )
    except (ValueError, TypeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError("adapter facts are not valid", str(source), why) from None


def _lora_config(settings: Mapping[str, Any], where: Path) -> LoraConfig:
    """PEFT's own settings decide, so that the adapter answers here as it does in plain PEFT."""
    unknown = [key for key in UNKNOWN_FORMS if settings.get(key)]
    if unknown:
        raise ModelError(
            f"the adapter uses {', '.join(unknown)}",
            str(where),
            "sapwood can't apply that",
            "open it with PEFT",
        )
    targets = settings.get("target_modules")
    try:
        return LoraConfig(
            method="dora" if settings.get("use_dora") else "rslora" if settings.get("use_rslora") else "lora",
            bias=settings.get("bias", "none"),
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            targets=tuple(targets) if _is_sequence(targets) else targets,  # type: ignore[arg-type]
        )
    except (KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError("adapter config is not valid", str(where), why) from None


def _names_a_base(target: str) -> bool:
    path = Path(target)
    return ":" in target or (path / "config.json").is_file() or (path.is_file() and path.suffix == ".gguf")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} can't be read", str(path), str(error)) from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path.name} is not an object", str(path))
    return tree


def _exact(spec: BaseSpec, config: BaseConfig) -> BaseConfig:
    """fp32 for what fp32 holds without loss, where memory allows."""
    if config.storage not in ("auto", "fp32", "bf16", "fp16", "gguf"):
        return config
    wide = config.model_copy(update={"storage": "fp32"})
    return wide if weight_bytes(spec, wide) < FILLED * available_memory() else config


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
