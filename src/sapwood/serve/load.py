"""What a person names (a run, an adapter, a base) as a model to talk to.

An adapter is put only on the base, and behind the template, that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sapwood.adapter.attach import attach_lora, attach_saved
from sapwood.adapter.elsewhere.read import is_adapter, read_saved
from sapwood.adapter.facts import (
    ADAPTER_DIR,
    FACTS,
    AdapterFacts,
    facts_of,
    read_facts,
    verify_adapter,
)
from sapwood.adapter.files import read_tensors
from sapwood.adapter.folder import found_base
from sapwood.adapter.model import LoraModel, restore_adapter
from sapwood.base.folder import read_json
from sapwood.base.inspect import inspect_base
from sapwood.base.load import grow, load_base, place
from sapwood.base.storage.storages import FILLED, weight_bytes
from sapwood.config.file import load_config
from sapwood.config.sections import BaseConfig, RunConfig, Storage
from sapwood.errors import ConfigError, ModelError, Problem, StorageError
from sapwood.gguf.file import is_gguf
from sapwood.machine.device import CPU, device_for
from sapwood.machine.memory import available_memory
from sapwood.run.files import verify_dir
from sapwood.run.query import find_run
from sapwood.run.store import CHECKPOINTS, CONFIG, RUN
from sapwood.serve.foreign import Foreign, read_foreign, rows_of, with_tokenizer
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import Base, BaseSpec

MODEL = "config.json"


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


def open_target(
    target: str, runs: Path, *, exact: bool = False, base: str | None = None, template: str | None = None
) -> Loaded:
    """Load what ``target`` names.

    Args:
        target: a run (its id, a beginning of it, its name, ``last``, its folder), an adapter (a folder of
            ours, PEFT's or mlx-lm's, a GGUF file), or a base model (``builtin:NAME``, ``hf:ORG/NAME``, a
            folder, a GGUF file). Of an unfinished run the newest checkpoint is taken.
        runs: the folder of runs.
        exact: hold an adapter's base in fp32 where it was trained in a narrower float, and on the CPU.
        base: where the adapter's base lies now. Its fingerprint decides whether it is the right one, if the
            adapter knows it.
        template: the chat template of an adapter that doesn't know its own.

    Raises:
        ConfigError: nothing is called that.
        ModelError: the base or the template is not the one that the adapter was trained on, or it is damaged.
    """
    path = Path(target)
    if not (path / RUN).is_file() and is_adapter(path):
        return open_adapter(path, target, exact=exact, base=base, template=template)
    if template is not None:
        raise ConfigError(f"{target} has a template of its own", "--template", "it is for other adapters")
    if (path / RUN).is_file():
        return _open_run(path, exact, base)
    if _names_a_base(target):
        if base is not None:
            raise ConfigError(f"{target} is a base itself", "--base", "it belongs to an adapter")
        return open_base(target)
    return _open_run(find_run(runs, target), exact, base)


def open_base(model: str) -> Loaded:
    """A base model without an adapter."""
    config = BaseConfig(model=model)
    spec = inspect_base(config)
    renderer = _renderer(spec, "auto", None)
    base = load_base(spec, config, device_for("auto"))
    place(base.model, base.device)
    return Loaded(base, None, renderer, None, model)


def open_adapter(
    at: Path, name: str, *, exact: bool = False, base: str | None = None, template: str | None = None
) -> Loaded:
    """An adapter's folder, as `save_adapter` writes it, wherever it was moved or copied to, or as a hub gives
    it back; or an adapter of another program, of which nothing is proven."""
    if not (at / FACTS).is_file():
        return open_foreign(read_foreign(at, base, template), at, name, exact=exact)
    if template is not None:
        why = "the adapter says which one it was trained with"
        raise ConfigError("the template is known", "--template", why, "leave --template out")
    verify_adapter(at, sealed=False)
    facts = read_facts(at)
    if (at / MODEL).is_file() and (whole := _open_whole(facts, at, name, exact)) is not None:
        return whole
    return _open(facts, at, name, exact, base)


def open_foreign(found: Foreign, at: Path, name: str, *, exact: bool = False) -> Loaded:
    """An adapter that another program made, on its base."""
    device = CPU if exact else device_for("auto")
    config = BaseConfig(model=found.spec.source)
    if exact or found.dense:
        config = _exact(found.spec, config, "bf16")
    rows = rows_of(found.settings, found.tensors, found.spec)
    loaded = grow(load_base(found.spec, config, device), rows)
    adapted = attach_saved(loaded, found.settings, found.tensors, at)
    place(adapted.peft, device)
    return Loaded(loaded, adapted, found.renderer, None, name, at)


# --- inside -----------------------------------------------------------------------------------------------


def _open_run(run: Path, exact: bool, base: str | None) -> Loaded:
    """The finished adapter, or else the newest checkpoint that verifies."""
    if (run / ADAPTER_DIR).is_dir():
        return open_adapter(run / ADAPTER_DIR, run.name, exact=exact, base=base)
    found = sorted((run / CHECKPOINTS).glob("step-[0-9]*"), key=lambda path: path.name, reverse=True)
    damaged: list[Problem] = []
    for checkpoint in found:
        try:
            verify_dir(checkpoint)
        except StorageError as error:
            damaged += error.problems
            continue
        config = load_config(run / CONFIG)
        name, facts = f"{run.name} {checkpoint.name}", _facts_of_run(run, config)
        return _open(facts, checkpoint, name, exact, base, config)
    if damaged:
        raise StorageError(damaged)
    raise ModelError(
        "the run has no adapter yet", str(run), "it has saved no checkpoint", f"sapwood resume {run}"
    )


def _open(
    facts: AdapterFacts,
    folder: Path,
    name: str,
    exact: bool,
    base: str | None,
    trained: RunConfig | None = None,
) -> Loaded:
    """``trained``: the config of the run, where a checkpoint is opened and not a finished adapter."""
    device = CPU if exact else device_for("auto")  # an export is compared on the CPU, in fp32
    whole = trained is None and (folder / MODEL).is_file()  # full fine-tuning: the folder is a model
    saved = None if whole or trained is not None else read_saved(folder, None)  # before a base is loaded
    spec = found_base(facts, folder, base)
    if saved is not None:
        spec, _ = with_tokenizer(spec, folder)
    renderer = _renderer(spec, facts.template_name, facts.clock, facts.meant)
    _verify(facts, folder, renderer)
    if whole:
        model = load_base(replace(spec, path=folder), facts.base, device)
        place(model.model, device)
        return Loaded(model, None, renderer, facts.system, name, folder)
    loaded = load_base(spec, _exact(spec, facts.base) if exact else facts.base, device)
    if trained is not None:
        adapted = attach_lora(loaded, trained.lora, trained.train.seed)
        restore_adapter(adapted, read_tensors(folder), folder)
    else:
        assert saved is not None
        loaded = grow(loaded, rows_of(*saved, spec))
        adapted = attach_saved(loaded, *saved, folder)
    place(adapted.peft, device)
    return Loaded(loaded, None if adapted.method == "full" else adapted, renderer, facts.system, name, folder)


def _open_whole(facts: AdapterFacts, folder: Path, name: str, exact: bool) -> Loaded | None:
    """A model that was trained whole, with the tokenizer and the template that its folder has. None if these
    aren't the ones of the training, as the base's may be."""
    spec = inspect_base(facts.base.model_copy(update={"model": str(folder)}))
    renderer = _renderer(spec, "auto", facts.clock, facts.meant)
    if renderer.fingerprint != facts.template_fingerprint:
        return None
    device = CPU if exact else device_for("auto")
    model = load_base(replace(spec, source=facts.base.model), facts.base, device)
    place(model.model, device)
    return Loaded(model, None, renderer, facts.system, name, folder)


def _verify(facts: AdapterFacts, folder: Path, renderer: Renderer) -> None:
    """The template is that of the training, or the answers would be those of another model."""
    if facts.template_fingerprint not in (None, renderer.fingerprint):
        raise ModelError(
            "the chat template is not the one that this adapter was trained with",
            str(folder),
            f"trained with {facts.template_fingerprint}, found {renderer.fingerprint} "
            f"(template.name {facts.template_name})",
            "put the tokenizer's files and the template back as they were, or train again",
        )


def _renderer(
    spec: BaseSpec, template_name: str, clock: datetime | None, meant: tuple[str, ...] = ()
) -> Renderer:
    template = choose_template(spec.tokenizer, template_name)
    return Renderer(spec.tokenizer, template, spec.stop_ids, clock, meant)


def _facts_of_run(run: Path, config: RunConfig) -> AdapterFacts:
    """A checkpoint holds weights only: what it stands on is the run's config and what the run recorded."""
    recorded = read_json(run / RUN).get("facts")
    tree = {"system": config.data.system, **(recorded if isinstance(recorded, Mapping) else {})}
    return facts_of(tree, config.base.model_dump(), config.template.name, run / RUN)


def _names_a_base(target: str) -> bool:
    path = Path(target)
    return ":" in target or (path / MODEL).is_file() or (path.is_file() and is_gguf(path))


def _exact(spec: BaseSpec, config: BaseConfig, otherwise: Storage | None = None) -> BaseConfig:
    """fp32 for what fp32 holds without loss, where memory allows; ``otherwise``: the storage where it
    doesn't, if not the config's."""
    if config.storage not in ("auto", "fp32", "bf16", "fp16", "gguf"):
        return config
    wide = config.model_copy(update={"storage": "fp32"})
    narrow = config if otherwise is None else config.model_copy(update={"storage": otherwise})
    return wide if weight_bytes(spec, wide) < FILLED * available_memory() else narrow
