"""What a person names (a run, an adapter, a base) as a model to talk to.

An adapter is put only on the base, and behind the template, that it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapwood.adapter.attach import attach_lora, attach_saved
from sapwood.adapter.elsewhere.read import read_saved
from sapwood.adapter.facts import AdapterFacts
from sapwood.adapter.files import read_tensors
from sapwood.adapter.folder import found_base
from sapwood.adapter.model import LoraModel, restore_adapter
from sapwood.base.inspect import inspect_base
from sapwood.base.load import grow, load_base, place
from sapwood.base.storage.storages import FILLED, weight_bytes
from sapwood.config.sections import BaseConfig, Storage
from sapwood.errors import ConfigError, ModelError
from sapwood.machine.device import CPU, device_for
from sapwood.machine.memory import available_memory
from sapwood.serve.foreign import Foreign, read_foreign, rows_of, with_tokenizer
from sapwood.serve.found import Found, Place, adapter_place, find_place, renderer_of
from sapwood.serve.generate import Watch, context_length, stream
from sapwood.serve.settings import Answer, Settings
from sapwood.template.render import Renderer
from sapwood.types import Base, BaseSpec


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and all that it needs to be talked to as it was trained.

    Attributes:
        model: the adapter on the base, or None if a bare base was named.
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

    @property
    def source(self) -> str:
        return self.base.spec.source

    @property
    def kind(self) -> str:
        return f"torch, in {self.base.storage}"

    @property
    def context(self) -> int | None:
        return context_length(self.network)

    @property
    def adapted(self) -> bool:
        return self.model is not None

    def answer(
        self, prompt: Sequence[int], settings: Settings, *, base: bool = False, watch: Watch | None = None
    ) -> Generator[str, None, Answer]:
        """As `session.Voice`."""
        with self.without_adapter() if base else nullcontext():
            stops = self.renderer.stop_ids
            return (yield from stream(self.network, self.tokenizer, prompt, stops, settings, watch))

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
        exact: hold a base in fp32, whose numbers are those of its files, and on the CPU.
        base: where the adapter's base lies now. Its fingerprint decides whether it is the right one, if the
            adapter knows it.
        template: the chat template of an adapter that doesn't know its own.

    Raises:
        ConfigError: nothing is called that.
        ModelError: the base or the template is not the one that the adapter was trained on, or it is damaged.
    """
    return load_found(find_target(target, runs, base=base, template=template), exact=exact)


def find_target(target: str, runs: Path, *, base: str | None = None, template: str | None = None) -> Found:
    """What ``target`` names, without weights. Arguments and errors as `open_target`."""
    return found_at(find_place(target, runs, base), template)


def found_at(place: Place, template: str | None = None) -> Found:
    """What lies at a place, held against its base. Arguments and errors as `open_target`."""
    if place.folder is not None and place.facts is None:
        foreign = read_foreign(place.folder, place.base, template)
        return Found(None, foreign.spec, foreign.renderer, place.name, place.folder, foreign=foreign)
    if template is not None:
        what = f"{place.name} has a template of its own"
        why = "--template is for adapters that don't know theirs"
        raise ConfigError(what, "--template", why, "leave --template out")
    if place.folder is None or place.facts is None:
        return _bare(place.name)
    if place.whole and (whole := _find_whole(place.facts, place.folder, place.name)) is not None:
        return whole
    return _found(place, place.facts, place.folder)


def load_found(found: Found, *, exact: bool = False) -> Loaded:
    """The same with weights. Raises ModelError as `open_target`."""
    facts, folder, spec = found.facts, found.folder, found.spec
    if found.foreign is not None and folder is not None:
        return open_foreign(found.foreign, folder, found.name, exact=exact)
    device = CPU if exact else device_for("auto")  # an export is compared on the CPU, in fp32
    told = (found.renderer, found.system, found.name, folder)
    if facts is None or folder is None:
        config = BaseConfig(model=spec.source)
        base = load_base(spec, _exact(spec, config, spec.number_format) if exact else config, device)
        place(base.model, base.device)
        return Loaded(base, None, *told)
    if found.whole:
        model = load_base(replace(spec, path=folder), facts.base, device)
        place(model.model, device)
        return Loaded(model, None, *told)
    saved = None if found.trained is not None else read_saved(folder, None)
    loaded = load_base(spec, _exact(spec, facts.base) if exact else facts.base, device)
    if saved is None:
        assert found.trained is not None
        adapted = attach_lora(loaded, found.trained.lora, found.trained.train.seed)
        restore_adapter(adapted, read_tensors(folder), folder)
    else:
        loaded = grow(loaded, rows_of(*saved, spec))
        adapted = attach_saved(loaded, *saved, folder)
    place(adapted.peft, device)
    return Loaded(loaded, None if adapted.method == "full" else adapted, *told)


def open_base(model: str) -> Loaded:
    """A base model without an adapter."""
    return load_found(_bare(model))


def open_adapter(
    at: Path, name: str, *, exact: bool = False, base: str | None = None, template: str | None = None
) -> Loaded:
    """An adapter's folder, as `save_adapter` writes it, wherever it was moved or copied to, or as a hub gives
    it back; or an adapter of another program, of which nothing is proven."""
    return load_found(found_at(adapter_place(at, name, base), template), exact=exact)


def open_foreign(found: Foreign, at: Path, name: str, *, exact: bool = False) -> Loaded:
    """An adapter that another program made, on its base."""
    device = CPU if exact else device_for("auto")
    config = BaseConfig(model=found.spec.source)
    if exact or found.dense:
        config = _exact(found.spec, config, found.spec.number_format or "bf16")
    rows = rows_of(found.settings, found.tensors, found.spec)
    loaded = grow(load_base(found.spec, config, device), rows)
    adapted = attach_saved(loaded, found.settings, found.tensors, at)
    place(adapted.peft, device)
    return Loaded(loaded, adapted, found.renderer, None, name, at)


# --- inside -----------------------------------------------------------------------------------------------


def _bare(model: str) -> Found:
    spec = inspect_base(BaseConfig(model=model))
    return Found(None, spec, renderer_of(spec, "auto", None), model)


def _found(place: Place, facts: AdapterFacts, folder: Path) -> Found:
    ours = place.trained is None and not place.whole
    if ours:
        _refuse_another_scale(facts, read_saved(folder, None)[0], folder)  # before the base is looked for
    spec = found_base(facts, folder, place.base)
    if ours:
        spec, _ = with_tokenizer(spec, folder)
    renderer = renderer_of(spec, facts.template_name, facts.clock, facts.meant)
    _verify(facts, folder, renderer)
    return Found(facts, spec, renderer, place.name, folder, place.trained)


def _refuse_another_scale(facts: AdapterFacts, settings: Mapping[str, Any], folder: Path) -> None:
    """Raises ModelError if somebody edited the scale in the adapter's settings: such a file would load, and
    answer otherwise. PiSSA is saved as a LoRA of twice the rank and twice the alpha."""
    if settings["peft_type"] != "LORA" or settings.get("alpha_pattern") or settings.get("rank_pattern"):
        return
    try:
        meant = float(facts.lora["alpha"]) / float(facts.lora["rank"])
        found = float(settings["lora_alpha"]) / float(settings["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return  # nothing says which scale the training had
    if not math.isclose(meant, found, rel_tol=1e-6):
        what = f"alpha / rank is {found:g}, and {meant:g} in training"
        mend = "put adapter_config.json back as it was"
        raise ModelError(f"lora_alpha was changed: {what}", str(folder), mend=mend)


def _find_whole(facts: AdapterFacts, folder: Path, name: str) -> Found | None:
    """A model that was trained whole, with the tokenizer and the template of its folder. None if these aren't
    the ones of the training: the base's own may be."""
    spec = inspect_base(facts.base.model_copy(update={"model": str(folder), "new_tokens": ()}))
    renderer = renderer_of(spec, "auto", facts.clock, facts.meant)
    if renderer.fingerprint != facts.template_fingerprint:
        return None
    return Found(facts, replace(spec, source=facts.base.model), renderer, name, folder)


def _verify(facts: AdapterFacts, folder: Path, renderer: Renderer) -> None:
    """Raises ModelError if the template isn't that of the training: another one would change the answers."""
    if facts.template_fingerprint not in (None, renderer.fingerprint):
        raise ModelError(
            "the chat template is not the one that this adapter was trained with",
            str(folder),
            f"trained with {facts.template_fingerprint}, found {renderer.fingerprint} "
            f"(template.name {facts.template_name})",
            "put the tokenizer's files and the template back as they were, or train again",
        )


def _exact(spec: BaseSpec, config: BaseConfig, otherwise: Storage | None = None) -> BaseConfig:
    """``config`` with fp32 in place of a storage that fp32 holds without loss, if memory allows.
    ``otherwise``: the storage if memory doesn't; None is the config's."""
    if config.storage not in ("auto", "fp32", "bf16", "fp16", "gguf"):
        return config
    wide = config.model_copy(update={"storage": "fp32"})
    narrow = config if otherwise is None else config.model_copy(update={"storage": otherwise})
    return wide if weight_bytes(spec, wide) < FILLED * available_memory() else narrow
