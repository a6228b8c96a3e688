"""A trained adapter in the form that another program runs. Nothing is published before it was checked."""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from sapwood.adapter.pairs import has_pairs
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.network.parts import auto_class, is_wrapper, speaks
from sapwood.base.write import is_tied
from sapwood.config.sections import BaseConfig
from sapwood.engine.process import require_llama_cpp
from sapwood.errors import ConfigError, ExportError, SapwoodError, first_line, row_count
from sapwood.export.check import Check, judge
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.export.gguf_model import write_gguf_model
from sapwood.export.llama_cpp import WHY, hear_llama
from sapwood.export.merge import (
    EXACT,
    Parameters,
    Quality,
    base_parameters,
    changes_of,
    exact_difference,
    fill,
    hear_transformers,
    held_out_loss,
    measure,
    merged_parameters,
    plain_transformers,
    write_merged,
)
from sapwood.export.ollama import modelfile
from sapwood.export.quantise import FileType, require_quantiser
from sapwood.export.read_back import config_facts, gguf_facts
from sapwood.export.rounded import in_formats, rounded_loss, types_in, whole_file, yardstick
from sapwood.export.traces import Trace, far_from, rows_of, said_by, trace_prompts
from sapwood.gguf.written import refuse_unwritable
from sapwood.machine.doing import doing
from sapwood.run.files import staged_dir, to_json
from sapwood.serve.load import Loaded
from sapwood.types import CHECK, BaseSpec, Example, Kind

MODELFILE = "Modelfile"


@dataclass(frozen=True, slots=True)
class Order:
    """What to export.

    Attributes:
        kind: the form. file_type: of a whole model in GGUF.
        onto: for a merged folder, a base in full precision to merge into beside the one that was trained on.
        held: held-out examples of the run; ways to merge are compared on them, and a type of GGUF with the
            trained model.
    """

    kind: Kind
    file_type: FileType = "F16"
    onto: str | None = None
    held: Sequence[Example] = ()


@dataclass(slots=True)
class Exported:
    """A published export. ``use``: what to type next; ``notes``: what a person should read."""

    path: Path
    check: Check
    use: str
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "use": self.use, **self.facts, **self.check.to_json()}


def export(trained: Loaded, order: Order, final: Path) -> Exported:
    """Write, check, publish.

    Args:
        trained: an adapter on its base, or a model that was trained whole.
        final: the folder to create; it must not exist.

    Raises:
        ConfigError: a base was named, on which nothing was trained.
        ExportError: the form can't hold this model, or the check failed; nothing is published then.
        StorageError: the folder exists, or the disk refused.
    """
    if trained.model is None and trained.folder is None:
        why = "that is a base model"
        raise ConfigError("nothing trained to export", trained.name, why, "name a run or an adapter")
    if order.onto is not None and order.kind != "merged":
        why = f"with --to {order.kind} the base is the one that was trained on"
        raise ConfigError(
            "--onto is for merged folders only", "--onto", why, "--to merged, or leave --onto out"
        )
    refuse_early(trained.base.spec, order.kind)
    require_quantiser(order.file_type)
    with staged_dir(final) as stage:
        with doing(f"writing {order.kind}"), _libraries_told(trained, order.kind):
            done = _WRITERS[order.kind](trained, order, stage)
        done.path = final
        done.use = done.use.replace("{folder}", quote(str(final))).replace("{path}", repr(str(final)))
        (stage / CHECK).write_text(to_json(done.to_json()), encoding="utf-8")
        done.check.refuse(str(final))
    return done


@contextmanager
def _libraries_told(trained: Loaded, kind: Kind) -> Generator[None]:
    """What a library raises inside is told in its words. What our own lines raise stays a fault of ours."""
    try:
        yield
    except (SapwoodError, OSError, MemoryError):
        raise
    except Exception as error:  # each library has its own
        frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        library = frame.f_globals.get("__name__", "").partition(".")[0]
        if library == "sapwood" or library in sys.stdlib_module_names:
            raise
        what = f"--to {kind} failed on this {trained.base.spec.text.model_type} model"
        mend = "try another form; PEFT opens the adapter's own folder as it is"
        raise ExportError(what, trained.name, f'{library} says "{first_line(error)}"', mend) from error


def refuse_early(spec: BaseSpec, kind: Kind) -> None:
    """What can be said before the weights are loaded. Raises ExportError with all that has no place in the
    form, or because what checks it isn't installed."""
    if kind != "merged":
        require_llama_cpp(WHY)
        refuse_unwritable(spec.text)
    elif spec.path.is_file() and is_wrapper(spec.hf_config):
        why = f"a folder of {spec.hf_config.model_type} has a part for pictures, and the file has none"
        mend = "--to gguf; or open the adapter's own folder in PEFT, on the model's folder"
        raise ExportError("the base holds the language model alone", str(spec.path), why, mend)


# --- GGUF -------------------------------------------------------------------------------------------------


def _gguf_adapter(trained: Loaded, order: Order, stage: Path) -> Exported:
    traces = trace_prompts(trained)
    check = _adapter_file(trained, traces, stage)
    base = trained.base.spec.path
    runs = quote(str(base)) if base.is_file() else "YOUR-BASE.gguf"
    return Exported(stage, check, f"llama-server -m {runs} --lora {{folder}}/adapter.gguf")


def _adapter_file(trained: Loaded, traces: Sequence[Trace], stage: Path) -> Check:
    """``adapter.gguf``, checked on the base's own GGUF file, or on one made of its folder."""
    adapter, spec, renderer = stage / "adapter.gguf", trained.base.spec, trained.renderer
    write_gguf_adapter(trained, adapter)
    if spec.path.is_file():
        form, usual = types_in(spec.path)
        noise = yardstick(trained.network, traces, form, None, written=False)
        return judge(traces, hear_llama(traces, renderer.stop_ids, spec.path, adapter), usual, noise)
    with tempfile.TemporaryDirectory(prefix=".tmp-base-", dir=stage.parent) as temporary:
        base = Path(temporary) / "base.gguf"
        write_gguf_model(base_parameters(trained.base.model), spec, renderer, base, "F16")
        noise = yardstick(trained.network, traces, whole_file("F16"), None, written=True)
        return judge(traces, hear_llama(traces, renderer.stop_ids, base, adapter), "F16", noise)


def _gguf(trained: Loaded, order: Order, stage: Path) -> Exported:
    check, losses = _model_file(trained, stage, order)
    return _told(Exported(stage, check, "llama-server --jinja -m {folder}/model.gguf"), losses, order)


def _told(done: Exported, losses: tuple[float, float] | None, order: Order) -> Exported:
    """``done`` with the held-out losses of its type and of the trained model, so that a person can choose."""
    if losses is not None:
        typed, trained = losses
        rows = row_count(len(order.held))
        words = f"{typed:.4f} in {order.file_type}, {trained:.4f} as trained ({typed - trained:+.4f}, {rows})"
        done.notes.append(f"held-out loss {words}")
        done.facts |= {"file_type": order.file_type, "held_out": len(order.held)}
        done.facts |= {"held_out_loss": typed, "trained_held_out_loss": trained}
    return done


def _model_file(trained: Loaded, stage: Path, order: Order) -> tuple[Check, tuple[float, float] | None]:
    """``model.gguf``, as llama.cpp says it and as `gguf` reads it back; and the held-out losses of its type
    and of the trained model, if there are held-out rows."""
    kind, traces = order.file_type, trace_prompts(trained)
    model, spec, renderer = stage / "model.gguf", trained.base.spec, trained.renderer
    tied = is_tied(trained.base.model)
    write_gguf_model(merged_parameters(trained), spec, renderer, model, kind, tied)
    facts = gguf_facts(model, spec.text, tied)
    form = whole_file(kind) if kind in ("F16", "Q8_0") else types_in(model)[0]
    noise = yardstick(trained.network, traces, form, changes_of(trained), written=True)
    heard = hear_llama(traces, renderer.stop_ids, model, None, template=True)
    check = judge(traces, heard, kind, noise, facts)
    if not order.held or check.problems:
        return check, None
    with doing("the loss on held-out rows"):
        typed = rounded_loss(trained.network, order.held, form, changes_of(trained))
        return check, (typed, held_out_loss(trained.network, order.held))


# --- Ollama -----------------------------------------------------------------------------------------------


def _ollama(trained: Loaded, order: Order, stage: Path) -> Exported:
    """The base's own GGUF file and the adapter; if the base is a folder, or the adapter no pairs of
    matrices, one merged model."""
    spec = trained.base.spec
    adapted = spec.path.is_file() and trained.model is not None and has_pairs(trained.model)
    names = ("base.gguf", "adapter.gguf") if adapted else ("model.gguf", None)
    text = modelfile(trained.renderer, trained.system, *names)
    (stage / MODELFILE).write_text(text, encoding="utf-8")
    losses = None
    if adapted:
        shutil.copyfile(spec.path, stage / "base.gguf")
        check = _adapter_file(trained, trace_prompts(trained), stage)
    else:
        check, losses = _model_file(trained, stage, order)
    use = f"cd {{folder}} && ollama create {_name(trained)} -f {MODELFILE}"
    return _told(Exported(stage, check, use), losses, order)


def _name(trained: Loaded) -> str:
    """What Ollama is to call it: the run's name, without the date and the digits of its folder, in letters of
    ASCII, digits and hyphens."""
    name = re.sub(r"^\d{8}-\d{6}-(.+?)-[0-9a-f]{4}\b", r"\1", trained.name.lower())
    return "-".join(re.findall("[a-z0-9]+", name)) or "tuned"


# --- merged -----------------------------------------------------------------------------------------------


def _merged(trained: Loaded, order: Order, stage: Path) -> Exported:
    """The base that was trained on, or the one in full precision: whichever comes nearer."""
    traces = trace_prompts(trained)
    choices: dict[str, Any] = {f"merged into {trained.base.spec.source} as it was trained on": None}
    if order.onto is not None:
        choices[f"merged into {order.onto}"] = _other_base(order.onto, trained)
    found: list[tuple[Quality, Any]] = []
    exact: float | None = None
    for name, onto in choices.items():
        dense = load_dense(trained, merged_parameters(trained, onto))
        found.append((measure(name, dense, trained, traces, order.held), onto))
        if onto is None and trained.base.storage == "fp32":
            exact = exact_difference(dense, traces)
    if exact is not None and exact > EXACT:
        why = f"log probabilities move by {exact:.1e} in fp32; at most {EXACT:.0e} is allowed"
        mend = "export the adapter by itself: --to gguf-adapter, or open its folder in PEFT"
        raise ExportError("the merged model answers otherwise than the adapter", str(stage), why, mend)
    best, onto = min(found, key=lambda item: _rank(item[0]))
    write_merged(merged_parameters(trained, onto), trained, stage)
    (stage / "README.md").write_text(_card(trained, best), encoding="utf-8")
    check = _check_merged(trained, traces, onto, stage)
    notes = [quality.line() for quality, _ in found]
    if len(found) > 1:
        notes.append(f"better, and written: {best.name}")
    told = {q.name: {"kl": q.kl, "held_out_loss": q.loss} for q, _ in found}
    facts = {"choices": told, "chosen": best.name, "exact_difference": exact}
    use = f"{auto_class(trained.base.spec.hf_config)}.from_pretrained({{path}})"
    return Exported(stage, check, use, notes, facts)


def _check_merged(trained: Loaded, traces: Sequence[Trace], onto: Any, stage: Path) -> Check:
    """The folder in plain transformers. Merged into another base it can't say what was trained on this one;
    it is held against the same sum in memory then, after `measure` found that one nearer."""
    dense = load_dense(trained, merged_parameters(trained, onto))
    exact = said_by(dense, traces)
    own = 0.0
    if onto is None and trained.base.storage != "fp32":
        own = yardstick(trained.network, traces, whole_file("F32"), None, written=False)
    with plain_transformers(stage) as (model, tokenizer):
        heard = hear_transformers(model, tokenizer, traces, trained.renderer)
        in_formats(dense.get_submodule(speaks(dense)), model)
    noise = math.hypot(own, far_from(exact, rows_of(dense, traces)))
    facts = config_facts(stage, trained.base.spec.hf_config, is_tied(trained.base.model))
    return judge(traces if onto is None else exact, heard, "BF16", noise, facts)


def _rank(quality: Quality) -> float:
    return quality.kl if quality.loss is None else quality.loss


def load_dense(trained: Loaded, parameters: Parameters) -> Any:
    """A dense fp32 model that holds ``parameters``."""
    spec = trained.base.spec
    model = load_base(spec, BaseConfig(model=spec.source, storage="fp32")).model
    fill(model, parameters)
    return model


def _other_base(source: str, trained: Loaded) -> Any:
    config = BaseConfig(model=source, storage="fp32")
    spec = inspect_base(config)
    ours, theirs = trained.base.spec.text, spec.text
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size")
    if odd := [key for key in keys if getattr(ours, key) != getattr(theirs, key)]:
        why = ", ".join(f"{key} {getattr(theirs, key)}, trained on {getattr(ours, key)}" for key in odd)
        raise ExportError(f"{source} is another model", "--onto", why)
    return load_base(spec, config).model


def _card(trained: Loaded, quality: Quality) -> str:
    return f"""---
library_name: transformers
tags: [lora, merged, sapwood]
---
# {trained.name}: {trained.base.spec.source}, fine-tuned

Weights in bf16, merged in fp32. {quality.line()}.
Generation ends on {", ".join(map(repr, trained.tokenizer.convert_ids_to_tokens(trained.renderer.stop_ids)))}.
`{CHECK}` holds the comparison with the model that was trained.
"""


_WRITERS = {"merged": _merged, "gguf-adapter": _gguf_adapter, "gguf": _gguf, "ollama": _ollama}
