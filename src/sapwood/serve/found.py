"""What a person names (a run, an adapter, a base): where that lies, and what its files say.

Nothing here imports torch or transformers: a server that has all else in its cache starts without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sapwood.adapter.elsewhere.kind import base_named, is_adapter
from sapwood.adapter.facts import (
    ADAPTER_DIR,
    FACTS,
    AdapterFacts,
    base_place,
    facts_of,
    read_facts,
    verify_adapter,
)
from sapwood.base.folder import read_json
from sapwood.config.file import load_config
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ConfigError, ModelError, Problem, StorageError
from sapwood.gguf.file import is_gguf
from sapwood.run.files import verify_dir
from sapwood.run.query import find_run
from sapwood.run.store import CHECKPOINTS, CONFIG, RUN
from sapwood.template.families import choose_template
from sapwood.template.render import Renderer
from sapwood.types import BaseSpec

if TYPE_CHECKING:
    from sapwood.serve.foreign import Foreign

MODEL = "config.json"


@dataclass(frozen=True, slots=True)
class Place:
    """What a person named, as a place on this disk.

    Attributes:
        name: what to call it: the run's id, the adapter's folder, or the base as the user wrote it.
        folder: the adapter (a folder or a file), a checkpoint, or a model that was trained whole; None for a
            bare base.
        facts: what the adapter says of its training; None of a bare base, and of another program's adapter.
        base: where the base lies now, if the user said so; the bare base itself.
        trained: the run's config, if ``folder`` is a checkpoint and no finished adapter.
    """

    name: str
    folder: Path | None = None
    facts: AdapterFacts | None = None
    base: str | None = None
    trained: RunConfig | None = None

    @property
    def whole(self) -> bool:
        """Full fine-tuning: the folder is a model."""
        return _is_whole(self)

    @property
    def full(self) -> bool:
        """All weights are in the folder: a model that was trained whole, or a checkpoint of such a
        training."""
        return _is_full(self)

    def base_config(self) -> BaseConfig:
        """The base, as a config names it. Raises ModelError if no file says which, or if the base isn't
        there."""
        if self.folder is None:
            return BaseConfig(model=self.name)
        if self.facts is None:
            return BaseConfig(model=base_named(self.folder, self.base))
        model = self.base or base_place(self.facts, self.folder)
        return self.facts.base.model_copy(update={"model": model})


@dataclass(frozen=True, slots=True)
class Found:
    """What a person named, before a weight of its base is read: enough to render prompts as in training.

    Attributes:
        facts: what the adapter's folder says; None of a bare base, and of another program's adapter.
        spec: the base, with the tokenizer that the adapter brings; renderer, name, folder: as in `Loaded`.
        trained: the run's config, if ``folder`` is a checkpoint and no finished adapter.
        foreign: an adapter of another program.
    """

    facts: AdapterFacts | None
    spec: BaseSpec
    renderer: Renderer
    name: str
    folder: Path | None = None
    trained: RunConfig | None = None
    foreign: Foreign | None = None

    @property
    def system(self) -> str | None:
        return self.facts.system if self.facts is not None else None

    @property
    def held(self) -> BaseConfig | None:
        """How the base's weights are held, if the adapter says it."""
        return self.facts.base if self.facts is not None else None

    @property
    def bare(self) -> bool:
        """A base without an adapter."""
        return self.folder is None

    @property
    def whole(self) -> bool:
        """Full fine-tuning: the folder is a model."""
        return _is_whole(self)

    @property
    def full(self) -> bool:
        """As in `Place`."""
        return _is_full(self)

    def alone(self) -> Found:
        """The base without the adapter, behind its own template. Raises DataError if it ships none."""
        own, facts = self.renderer, self.facts
        as_here = facts is not None and facts.template_name == "auto" and not facts.meant
        if not as_here or own.tells_time:
            own = renderer_of(self.spec, "auto", None)
        return Found(None, self.spec, own, self.spec.source)


def _is_whole(one: Place | Found) -> bool:
    if one.facts is None or one.trained is not None or one.folder is None:
        return False
    return (one.folder / MODEL).is_file()


def _is_full(one: Place | Found) -> bool:
    return one.whole or (one.trained is not None and one.trained.lora.method == "full")


def find_place(target: str, runs: Path, base: str | None = None) -> Place:
    """What ``target`` names. Arguments as `load.open_target`.

    Raises:
        ConfigError: nothing is called that.
        ModelError, StorageError: it is damaged, or a run that has no adapter yet.
    """
    path = Path(target)
    if not (path / RUN).is_file() and is_adapter(path):
        return adapter_place(path, target, base)
    if (path / RUN).is_file():
        return _run_place(path, base)
    if _names_a_base(target):
        if base is not None:
            why = "--base says where an adapter's base lies"
            raise ConfigError(f"{target} is a base itself", "--base", why, "leave --base out")
        return Place(target)
    return _run_place(find_run(runs, target), base)


def adapter_place(at: Path, name: str, base: str | None) -> Place:
    """An adapter's folder, ours or another program's, or such a file. Errors as `find_place`."""
    if not (at / FACTS).is_file():
        return Place(name, at, base=base)
    verify_adapter(at, sealed=False)
    return Place(name, at, read_facts(at), base)


def _run_place(run: Path, base: str | None) -> Place:
    """The finished adapter, or else the newest checkpoint that verifies."""
    if (run / ADAPTER_DIR).is_dir():
        return adapter_place(run / ADAPTER_DIR, run.name, base)
    found = sorted((run / CHECKPOINTS).glob("step-[0-9]*"), key=lambda path: path.name, reverse=True)
    damaged: list[Problem] = []
    for checkpoint in found:
        try:
            verify_dir(checkpoint)
        except StorageError as error:
            damaged += error.problems
            continue
        config = load_config(run / CONFIG)
        return Place(f"{run.name} {checkpoint.name}", checkpoint, _facts_of_run(run, config), base, config)
    if damaged:
        raise StorageError(damaged)
    raise ModelError(
        "the run has no adapter yet", str(run), "it has saved no checkpoint", f"sapwood resume {run}"
    )


def renderer_of(
    spec: BaseSpec, template_name: str, clock: datetime | None, meant: tuple[str, ...] = ()
) -> Renderer:
    """The renderer of the base. Raises DataError if there is no template of that name, or none at all."""
    template = choose_template(spec.tokenizer, template_name)
    return Renderer(spec.tokenizer, template, spec.stop_ids, clock, meant, words=spec.words)


def _facts_of_run(run: Path, config: RunConfig) -> AdapterFacts:
    """The facts of a checkpoint, from the run's config and record: a checkpoint itself holds weights only."""
    recorded = read_json(run / RUN).get("facts")
    tree = {"system": config.data.system, **(recorded if isinstance(recorded, Mapping) else {})}
    return facts_of(tree, config.base.model_dump(), config.template.name, run / RUN)


def _names_a_base(target: str) -> bool:
    path = Path(target)
    return ":" in target or (path / MODEL).is_file() or (path.is_file() and is_gguf(path))
