"""The adapter added into its base: one dense model, and its folder for plain transformers."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.adapter.effective import Change, weight_changes
from sapwood.base.inspect import quiet
from sapwood.base.network.parts import is_across, speaks, whole_class
from sapwood.base.storage.frozen import freeze
from sapwood.base.storage.gguf_experts import BIASES, GgufExperts
from sapwood.base.storage.gguf_linear import GgufEmbedding
from sapwood.base.write import is_tied, write_folder
from sapwood.errors import ExportError, Problem
from sapwood.export.check import Outside, Top
from sapwood.export.traces import TOP, Trace, log_probs
from sapwood.serve.generate import generation_attention
from sapwood.serve.load import Loaded
from sapwood.template.render import Renderer
from sapwood.types import Example

TOGETHER = 1024  # tokens of held-out rows in one forward pass
EXACT = 1e-4  # largest difference of log p between merged and adapter, both in fp32
AROUND = re.compile(
    r"(\.token_adapter)?(\.base_layer)+$|\.original_module$"
)  # what PEFT puts around a module
OF_ADAPTER = re.compile(r"\.(lora_|ia3_l|hada_|lokr_|vera_|modules_to_save\.|trainable_tokens|ranknum)")
Parameters = Iterable[tuple[str, Tensor]]


def base_parameters(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a transformers model as a dense float32 matrix under its own name, in whatever storage,
    and with or without an adapter. Weights come one after the other, so that memory stays small."""
    tied = is_tied(network)
    modules: list[tuple[str, nn.Module]] = list(network.named_modules())
    head = next(name for name, module in modules if module is network.get_output_embeddings())
    for name, module in modules:
        own = AROUND.sub("", name)
        if OF_ADAPTER.search(name) or hasattr(module, "base_layer") or (tied and own == head):
            continue
        if getattr(module, "weight", module) is None:  # a module beside the language model of a wrapper
            continue
        if isinstance(module, GgufEmbedding):
            yield f"{own}.weight", module.packed.dense().float()
            continue
        if isinstance(module, GgufExperts):
            biases = {leaf: b for leaf, b in module.named_parameters(recurse=False) if leaf in BIASES}
            for leaf, values in (module.dense() | biases).items():
                yield f"{own}.{leaf}", values.float()
            continue
        rest = dict(module.named_parameters(recurse=False))
        try:
            weight = freeze(module).dense().float()
            yield f"{own}.weight", weight.T if is_across(module) else weight
            rest.pop("weight", None)
        except TypeError:  # no linear: norms and embeddings are held as they are
            pass
        for leaf, values in (rest | _kept_buffers(module)).items():
            yield f"{own}.{leaf}", values.detach().float()


def _kept_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers of a module that checkpoints hold, as they hold weights: what some routers add to scores."""
    buffers = {leaf: b for leaf, b in module.named_buffers(recurse=False) if b.is_floating_point()}
    kept = module.state_dict().keys() if buffers else ()
    return {leaf: buffer for leaf, buffer in buffers.items() if leaf in kept}


def merged_parameters(trained: Loaded, onto: Any = None) -> Iterator[tuple[str, Tensor]]:
    """`base_parameters` as the adapter changes them, in fp32. ``onto``: another dense model of the same
    shapes to change (for example to the base in full precision)."""
    changes = changes_of(trained)
    for name, weight in base_parameters(trained.base.model if onto is None else onto):
        change = changes.pop(name, None)
        yield name, weight if change is None else change(weight)
    if changes:
        raise ExportError([Problem(f"the base has no {name} for the adapter to change") for name in changes])


def changes_of(trained: Loaded) -> dict[str, Change]:
    """The adapter's changes of weights; none if the model's own weights were trained. Raises ExportError if
    head and embedding are one matrix, and would have to differ."""
    if trained.model is None:
        return {}
    changes, network = weight_changes(trained.model), trained.base.model
    config = trained.base.spec.text
    ends = network.get_input_embeddings(), network.get_output_embeddings()
    names = [name for name, module in network.named_modules() if any(module is end for end in ends)]
    apart = any(f"{name}.weight" in changes for name in names)
    if getattr(config, "tie_word_embeddings", False) and apart and not hasattr(ends[0], "token_adapter"):
        why = "the base has one matrix for head and embedding, and the adapter changes them in different ways"
        raise ExportError("the merged model would need a separate output head", trained.name, why)
    return changes


def write_merged(parameters: Parameters, trained: Loaded, folder: Path) -> None:
    """A folder that plain transformers loads: bf16 weights, the trained template, the stop ids that were
    trained."""
    renderer, base = trained.renderer, trained.base
    weights = ((name, tensor.to(torch.bfloat16)) for name, tensor in parameters)
    write_folder(weights, base.model, base.spec, renderer.template, renderer.stop_ids, folder)


@contextmanager
def plain_transformers(folder: Path) -> Generator[tuple[Any, Any]]:
    """The folder's model and tokenizer, as anybody would load them; of a wrapper what answers to text."""
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    with quiet():
        kind = whole_class(AutoConfig.from_pretrained(folder, local_files_only=True))
        model: Any = kind.from_pretrained(folder, local_files_only=True, dtype="auto")
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # AutoTokenizer rebuilds the pre-tokenizer of some families by model type, whatever the file holds
        if tokenizer.backend_tokenizer.to_str() != _file_tokenizer(PreTrainedTokenizerFast, folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    speaker = model.get_submodule(speaks(model))
    speaker.generation_config = model.generation_config  # the folder's
    yield speaker.eval(), tokenizer


def _file_tokenizer(kind: Any, folder: Path) -> str:
    return kind.from_pretrained(folder).backend_tokenizer.to_str()


@torch.no_grad()
def fill(model: Any, parameters: Parameters) -> None:
    """Give a dense model other weights, and other buffers that checkpoints hold, by name."""
    own = dict([*model.named_parameters(), *model.named_buffers()])
    for name, value in parameters:
        own[name].copy_(value)


def hear_transformers(model: Any, tokenizer: Any, traces: Sequence[Trace], renderer: Renderer) -> Outside:
    """The answers of plain transformers after the traces."""
    generation = model.generation_config.eos_token_id
    ends = set(generation if isinstance(generation, list) else [generation])
    ids = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in trace.messages],
            add_generation_prompt=True, tokenize=True, return_dict=False,
        )
        for trace in traces
    ]  # fmt: skip
    return Outside(ids, _tops(model, traces), {id: id in ends for id in renderer.stop_ids})


def _tops(model: Any, traces: Sequence[Trace]) -> list[list[Top]]:
    found: list[list[Top]] = []
    for trace in traces:
        rows = log_probs(model, trace.ids + trace.answer, len(trace.ids)).topk(TOP, -1)
        pairs = zip(rows.indices.tolist(), rows.values.tolist(), strict=True)
        found.append([list(zip(ids, log_ps, strict=True)) for ids, log_ps in pairs])
    return found


# --- how good a merge is ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """A way to merge, against the trained model: mean KL(trained || merged) over the traces' positions, in
    nats, and the held-out losses of both if the run has held-out rows."""

    name: str
    kl: float
    loss: float | None
    trained_loss: float | None

    def line(self) -> str:
        loss = f"; held-out loss {self.loss:.4f}, trained {self.trained_loss:.4f}" if self.loss else ""
        return f"{self.name}: KL against the trained model {self.kl:.5f} nat{loss}"


def measure(
    name: str, model: Any, trained: Loaded, traces: Sequence[Trace], held: Sequence[Example]
) -> Quality:
    """``model``: dense, holding the merged weights."""
    kls = [_kl(t.trained, log_probs(model, t.ids + t.answer, len(t.ids))) for t in traces]
    losses = (held_out_loss(model, held), held_out_loss(trained.network, held)) if held else (None, None)
    return Quality(name, float(torch.cat(kls).mean()), *losses)


def _kl(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.exp() * (ours - theirs)).sum(-1)


@torch.no_grad()
def held_out_loss(model: Any, examples: Sequence[Example]) -> float:
    """Mean over the targets by their weights, in nats. Rows share forward passes, padded at their ends: a
    causal model's answers don't depend on what follows."""
    total = torch.zeros(())
    for some in _together(examples):
        rows = [torch.tensor(example.ids, dtype=torch.long) for example in some]  # the run's can't be written
        with generation_attention(model):
            logits = model(nn.utils.rnn.pad_sequence(rows, batch_first=True), use_cache=False).logits
        for example, ids, told in zip(some, rows, logits, strict=True):
            learnt = torch.tensor(example.trained)[1:]
            log_ps = torch.log_softmax(told[: len(ids) - 1][learnt].float(), -1)
            target = log_ps.gather(1, ids[1:][learnt][:, None])[:, 0]
            weights = 1 if example.weights is None else torch.tensor(example.weights)[1:][learnt]
            total -= (target * weights).sum()
    return float(total) / sum(example.weight for example in examples)


def _together(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Rows of similar length, at most `TOGETHER` tokens with what pads them."""
    some: list[Example] = []
    for example in sorted(examples, key=lambda one: len(one.ids)):
        if some and (len(some) + 1) * len(example.ids) > TOGETHER:
            yield some
            some = []
        some.append(example)
    if some:
        yield some


def exact_difference(model: Any, traces: Sequence[Trace]) -> float:
    """Largest |difference of log p| between a model and the trained one, over all tokens and positions."""
    found = [log_probs(model, t.ids + t.answer, len(t.ids)) - t.trained for t in traces]
    return max(float(difference.abs().max()) for difference in found)
