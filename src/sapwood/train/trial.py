"""A trial before any weight is loaded. A tiny random copy of the model does what the run will do, and is
compared with plain transformers and PEFT.

One pack of rows that share a beginning, each longer than the layers' window, is computed as in training,
forward and backward. Then its adapter is written, read and opened as `sapwood chat` opens it. Value and
gradient must be those of each row alone, by the architecture's own attention and PEFT's own layers. They
differ if the model's layers mix tokens in another way, or if its attention can't be told what a pack holds.
Such a model is tried with a pass for each row.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sapwood.adapter.attach import attach_lora, attach_saved
from sapwood.adapter.elsewhere.start import started
from sapwood.adapter.files import read_adapter, write_adapter
from sapwood.adapter.inputs import attending
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import quiet
from sapwood.base.load import load_base
from sapwood.base.network.parts import text_class
from sapwood.base.tiny import VOCABULARY, WINDOW, NotOnTextError, tiny_model
from sapwood.config.sections import BaseConfig, LoraConfig, RunConfig
from sapwood.errors import ModelError, SapwoodError, first_line
from sapwood.machine.doing import doing
from sapwood.machine.measure import one_thread
from sapwood.machine.shortage import refuse_shortage
from sapwood.pack.build import build_pack
from sapwood.prepare.study import Study
from sapwood.train.loop import batch_of, forward_loss
from sapwood.types import Base, BaseSpec, Example, Pack, RowId

SHARED, OWN = 2 * WINDOW, (3 * WINDOW, 2 * WINDOW, 5)  # tokens of a row that all share, and of each row
UNTRAINED = "models can't be trained"
Rows = Literal["auto", "together", "alone"]  # as in the config's pack.rows
LOSS, GRADIENT, LOGITS = 1e-4, 1e-3, 1e-4  # relative differences in fp32, at most


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found.

    rows, tokens: of what was computed both ways. window: tokens of the layers' window, which the rows exceed;
    None if the model has none. alone: each row needs a pass of its own. why: the reason; empty if the config
    says so.
    """

    rows: int
    tokens: int
    window: int | None
    alone: bool = False
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "window": self.window,
            "alone": self.alone,
            "why": self.why,
            "loss_within": LOSS,
            "gradient_within": GRADIENT,
        }


def tried(study: Study, config: RunConfig) -> tuple[Study, RunConfig]:
    """The study with the trial's result in its proof, and the config with what `pack.rows` came to, and with
    the settings of an adapter that it goes on from. Raises ModelError if the trial fails."""
    config = config.model_copy(update={"lora": started(config.lora, study.spec)})
    trial = try_out(study.spec, config.lora, config.pack.rows)
    if trial.alone and config.lora.lead:
        why = f"{config.lora.method} puts what is learnt before the rows of a pack, and here rows are alone"
        why = f"{why}: {trial.why}" if trial.why else why
        raise ModelError("this model takes no soft prompt", "lora.method", why, "lora.method=lora")
    facts = {**study.facts, "proof": {**study.facts["proof"], "trial": trial.to_json()}}
    pack = config.pack.model_copy(update={"rows": "alone" if trial.alone else "together"})
    return replace(study, facts=facts), config.model_copy(update={"pack": pack})


def try_out(spec: BaseSpec, lora: LoraConfig, rows: Rows = "auto") -> Trial:
    """Train and open again, on a tiny copy of ``spec``'s model: rows together, or alone if that fails and
    ``rows`` leaves it open. Changes no generator.

    Raises ModelError: with what differs, or with why the architecture can't do what training asks of it.
    """
    if rows != "auto":
        return _tried(spec, lora, rows == "alone")
    try:
        return _tried(spec, lora, False)
    except ModelError as error:
        first = error.problems[0]
        why = first.why if UNTRAINED in first.what else f"{first.what}: {first.why}"
        return replace(_tried(spec, lora, True), why=why)


passed: dict[str, Trial] = {}  # by config, adapter and way: a process that trains often tries a shape once


def _tried(spec: BaseSpec, lora: LoraConfig, alone: bool) -> Trial:
    lora = _plain(lora)
    shape = f"{spec.hf_config.to_json_string()} {lora.model_dump_json()} {alone}"
    if shape not in passed:
        passed[shape] = _tried_anew(spec, lora, alone)
    return passed[shape]


def _tried_anew(spec: BaseSpec, lora: LoraConfig, alone: bool) -> Trial:
    mend = "take a model of another family"
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            torch.random.fork_rng(devices=[]),
            quiet(),
            one_thread(),
        ):
            return _try(spec, lora, Path(folder), alone)
    except Exception as error:
        refuse_shortage(error, "a tiny copy of the model was tried")
        if not isinstance(error, SapwoodError):
            raise
        problems = [replace(problem, mend=problem.mend or mend) for problem in error.problems]
        raise type(error)(problems) from None


@contextmanager
def _told_as(spec: BaseSpec, wrong: str) -> Generator[None]:
    """Whatever fails inside is told as ``wrong``, a sentence, with the library's own words behind it. The
    kind of its error is no word of theirs, unless they are the name of a key alone."""
    try:
        yield
    except SapwoodError:
        raise
    except Exception as error:  # each architecture and each config class has its own
        why = f"{wrong}: {_words(error)}"
        raise ModelError(f"{spec.hf_config.model_type} {UNTRAINED}", spec.source, why) from None


def _words(error: Exception) -> str:
    known = f"no {first_line(error)}" if isinstance(error, KeyError) else first_line(error)
    return f'the library says "{known or type(error).__name__}"'


@doing("trying a tiny copy of the model")
def _try(spec: BaseSpec, lora: LoraConfig, folder: Path, alone: bool) -> Trial:
    with _told_as(spec, "transformers can't make a tiny copy of it here"):
        config = _made(spec, folder / "base")
        tokens = dict.fromkeys(range(VOCABULARY - min(len(spec.new_tokens), SHARED), VOCABULARY), (3, 4))
        small = replace(spec, path=folder / "base", hf_config=config, new_tokens=tokens)
    with _told_as(spec, "PEFT can't put the adapter on it"):
        model = replace(attach_lora(_found_again(small), lora), alone=alone)
        _wake(model)
        write_adapter(model, folder / "adapter")
    examples = _rows()
    model.learn()
    with _told_as(spec, "its layers can't " + ("be trained" if alone else "compute several rows at once")):
        found_loss, found = _stepped(model, examples)
    with _told_as(spec, "transformers and PEFT can't open what was trained"):
        wanted_loss, wanted = _plainly(folder, examples)
        _compare(small, found_loss, wanted_loss, found, wanted, alone)
        _compare_opened(small, folder / "adapter", examples[0])
    window = getattr(small.hf_config.get_text_config(), "sliding_window", None)
    tokens = sum(len(pack.ids) for pack in _packs(examples, alone))
    return Trial(len(examples), tokens, window if isinstance(window, int) else None, alone)


def _packs(examples: list[Example], alone: bool) -> list[Pack]:
    return [build_pack([example]) for example in examples] if alone else [build_pack(examples)]


def _stepped(model: LoraModel, examples: list[Example]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as in training."""
    found = 0.0
    with attending(model):
        for pack in _packs(examples, model.alone):
            loss = forward_loss(model, batch_of(model, pack))
            if not loss.total.requires_grad:
                kind = model.network.config.model_type
                why = "its layers hand no gradient on: what is trained in them would never change"
                raise ModelError(f"{kind} {UNTRAINED}", kind, why)
            loss.total.backward()
            found += float(loss.total.detach())
    return found, {name: p.grad for name, p in model.parameters.items() if p.grad is not None}


def _plain(lora: LoraConfig) -> LoraConfig:
    """``lora`` at a small rank; a plain LoRA for methods that start from the base's own weights, or that put
    nothing on linears. Its dropout is attached, and then switched off: masks aren't compared."""
    own = lora.method not in ("pissa", "loftq") and lora.on_linears
    return lora.model_copy(
        update={"rank": min(lora.rank, 4), "method": lora.method if own else "lora"}
        | ({} if own else {"bias": "none"})
    )


def _loaded(spec: BaseSpec) -> Base:
    return load_base(spec, BaseConfig(model=spec.source, storage="fp32", products="fp32"))


def _made(spec: BaseSpec, folder: Path) -> Any:
    """The config of a tiny copy in ``folder``."""
    try:
        return tiny_model(spec.hf_config, folder)
    except NotOnTextError as error:
        why = f"transformers doesn't run it on tokens of text alone: {_words(error.cause)}"
        raise ModelError(f"{spec.hf_config.model_type} {UNTRAINED}", spec.source, why) from None


def _found_again(spec: BaseSpec) -> Base:
    """The tiny copy, loaded. A family whose weights transformers renames while it reads them may not find
    what transformers saved."""
    try:
        return _loaded(spec)
    except ModelError as error:
        lost = [problem.what for problem in error.problems if "tensor" in problem.what]
        if not lost:
            raise
        why = f"transformers doesn't find what it saved of a tiny copy: {lost[0]}, and {len(lost) - 1} more"
        raise ModelError(f"{spec.hf_config.model_type} {UNTRAINED}", spec.source, why) from None


@torch.no_grad()
def _wake(model: LoraModel) -> None:
    """Numbers that a trained adapter could have: B starts at zero, and hides A's gradient."""
    torch.manual_seed(1)
    for parameter in model.parameters.values():
        parameter.add_(0.05 * torch.randn_like(parameter))
    for module in model.peft.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _rows() -> list[Example]:
    generator = np.random.default_rng(0)
    shared = generator.integers(3, VOCABULARY, SHARED)
    rows: list[Example] = []
    for i, own in enumerate(OWN):
        ids = np.concatenate([shared, generator.integers(3, VOCABULARY, own)]).astype(np.int32)
        rows.append(Example(RowId("trial", i), ids, np.arange(len(ids)) >= SHARED // 2))
    return rows


def _plainly(folder: Path, examples: Sequence[Example]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by plain transformers and PEFT, row by row."""
    model = _plain_peft(folder)
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        at = torch.from_numpy(example.trained[1:])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        loss = nn.functional.cross_entropy(logits[at], ids[0, 1:][at], reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total, dict(_named_gradients(model))


def _plain_peft(folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder / "base", local_files_only=True)
    network = text_class(config).from_pretrained(
        folder / "base", dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going away
        return PeftModel.from_pretrained(network, str(folder / "adapter"), is_trainable=True).eval()


def _named_gradients(model: Any) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            plain = name.replace(".modules_to_save.default", "").replace(".default", "")
            yield plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"), parameter.grad


def _compare(
    spec: BaseSpec,
    loss: float,
    wanted_loss: float,
    found: dict[str, Tensor],
    wanted: dict[str, Tensor],
    alone: bool,
) -> None:
    if not abs(loss - wanted_loss) <= LOSS * abs(wanted_loss):
        words = (
            "the loss is {}, that of plain PEFT {}"
            if alone
            else "the loss of a pack is {}, that of its rows alone {}"
        )
        _refuse(spec, words.format(f"{loss:.6g}", f"{wanted_loss:.6g}"))
    nothing = torch.zeros(())  # what a layer that no token went through has
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    gaps = {
        name: float((found.get(name, nothing) - wanted.get(name, nothing)).abs().max()) / largest
        for name in found.keys() | wanted.keys()
    }
    worst = max(gaps, key=lambda name: gaps[name])
    if not gaps[worst] <= GRADIENT:
        _refuse(spec, f"the gradient of {worst} differs by {gaps[worst]:.2g} of the largest")


def _compare_opened(spec: BaseSpec, adapter: Path, example: Example) -> None:
    """The adapter as `serve.load` opens it, against plain PEFT; and that no token sees what it has to say."""
    plain = _plain_peft(adapter.parent)
    opened = attach_saved(_loaded(spec), *read_adapter(adapter), adapter)
    ids = torch.from_numpy(example.ids.astype(np.int64))[None]
    with torch.no_grad():
        found = opened.peft(input_ids=ids, use_cache=False).logits
        wanted = plain(input_ids=ids, use_cache=False).logits
        beginning = plain(input_ids=ids[:, : SHARED // 2], use_cache=False).logits
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    if not gap <= LOGITS:
        _refuse(spec, f"the adapter, opened again, gives logits that differ by {gap:.2g} of the largest")
    ahead = float((wanted[:, : SHARED // 2] - beginning).abs().max() / wanted.abs().max())
    if not ahead <= LOGITS:
        _refuse(spec, f"tokens see those after them: logits change by {ahead:.2g} with what follows")


def _refuse(spec: BaseSpec, why: str) -> None:
    kind = spec.hf_config.model_type
    mend = "take a model of another family; this one would be trained to something else"
    raise ModelError(f"{kind} {UNTRAINED}", spec.source, f"on a tiny copy {why}", mend)
