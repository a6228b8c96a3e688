"""Faults put into the exporters on purpose: each makes a file that opens, or nearly; none may be published.

Faults of weights are put into the base's own tensors as well as the merged ones, so that whatever is written
to compare with has them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sapwood.base import write
from sapwood.config.sections import LoraConfig
from sapwood.errors import ExportError
from sapwood.export import gguf_adapter, gguf_model, ship
from sapwood.export.ship import Kind, Order, export
from sapwood.gguf import layout
from sapwood.serve.load import Loaded
from tests.base.tiny import CHATML, MULTIPLIED, tiny_model_dir
from tests.export.tuned import tuned_on

Patch = pytest.MonkeyPatch
Weights = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Mutant:
    """A fault, and a model on which it matters. ``changes``: of the model's config."""

    name: str
    arch: str
    kind: Kind
    put: Callable[[Patch], None]
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return f"{self.arch} {self.kind} {self.changes}"


# --- ways to put a fault in -------------------------------------------------------------------------------


def key(name: str, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Another value of a key in the file; a change that gives None leaves it out."""

    def put(patch: Patch) -> None:
        right = gguf_model.file_values

        def wrong(*configs: Any) -> dict[str, Any]:
            values = {k: change(v) if k.endswith(name) else v for k, v in right(*configs).items()}
            assert values != right(*configs), f"{name} is no key of the file"
            return {k: v for k, v in values.items() if v is not None}

        patch.setattr(gguf_model, "file_values", wrong)

    return put


def tensors(change: Callable[[str, Tensor], Any]) -> Callable[[Patch], None]:
    """Other tensors, of the merged model and of the base alone. ``change`` gives a tensor, or a pair of a
    name and a tensor, or None to leave it out."""

    def put(patch: Patch) -> None:
        def wrong(right: Callable[..., Weights]) -> Callable[..., Weights]:
            def stream(*arguments: Any) -> Weights:
                for name, tensor in right(*arguments):
                    made = change(name, tensor)
                    if made is not None:
                        yield made if isinstance(made, tuple) else (name, made)

            return stream

        for name in ("merged_parameters", "base_parameters"):
            patch.setattr(ship, name, wrong(getattr(ship, name)))

    return put


def without(part: str) -> Callable[[Patch], None]:
    return tensors(lambda name, tensor: None if part in name else tensor)


def swapped(a: str, b: str) -> Callable[[Patch], None]:
    """Two tensors of one shape under each other's names."""

    def change(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        return (name.replace(a, "\0").replace(b, a).replace("\0", b), tensor)

    return tensors(change)


def transposed(part: str) -> Callable[[Patch], None]:
    return tensors(lambda name, tensor: tensor.T.contiguous() if part in name else tensor)


def coarse(name: str, tensor: Tensor) -> Tensor:
    """The embedding in 15 steps, as if it were packed into 4 bits."""
    if "embed_tokens" not in name:
        return tensor
    step = tensor.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 7
    return torch.round(tensor / step) * step


def attribute(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def config_key(name: str, value: Any) -> Callable[[Patch], None]:
    """Another value in config.json of a merged folder."""

    def put(patch: Patch) -> None:
        right = write._config
        patch.setattr(write, "_config", lambda *arguments: right(*arguments) | {name: value})

    return put


def weaker(name: str, tensor: Tensor) -> Tensor:
    return tensor * 0.9 if "up_proj" in name else tensor


def misread_alpha(patch: Patch) -> None:
    right = gguf_adapter.gguf_pairs
    patch.setattr(gguf_adapter, "gguf_pairs", lambda pairs, config: (8.0, right(pairs, config)[1]))


def other_layers(patch: Patch, layers: str = "layers") -> None:
    """The adapter's pairs of layer 0 on layer 1."""
    right = gguf_adapter.lora_pairs

    def wrong(model: Any) -> list[Any]:
        from dataclasses import replace

        moved = {f"{layers}.0.": f"{layers}.1.", f"{layers}.1.": f"{layers}.0."}
        return [
            replace(pair, module=pair.module.replace(old, moved[old]))
            for pair in right(model)
            for old in moved
            if old in pair.module
        ]

    patch.setattr(gguf_adapter, "lora_pairs", wrong)


def other_blocks(patch: Patch) -> None:
    other_layers(patch, "blocks")


def other_merged_template(patch: Patch) -> None:
    right = write._write_tokenizer
    patch.setattr(write, "_write_tokenizer", lambda spec, _, folder: right(spec, OTHER_TEMPLATE, folder))


LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}
LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
YARN_OF_DEEPSEEK = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 0.7,
    }
}
UNTIED = {"tie_word_embeddings": False}
OTHER_TEMPLATE = CHATML.replace("<|im_end|>", "")

NO_STOP = {"eos_token_id": 0}


def no_divisors(*_: Any) -> None:
    """Of Llama 3.1's scaling."""


def in_halves(*_: Any) -> None:
    """No tensor's rows are put in pairs."""


def in_pairs(_: str, name: str, __: Any) -> int | None:
    return {"attn_q": 4, "attn_k": 2}.get(name.rpartition(".")[2])


def none(*_: Any) -> None:
    """Nothing is multiplied."""


def in_place(*_: Any, **__: Any) -> None:
    """No head in another order."""


def any_norm(tensor: str) -> bool:
    return tensor.endswith("norm")


def one_after_the_other(names: Sequence[str], values: Any, _: bool = False) -> list[Any]:
    return right_apart(names, values)


def by_turns(names: Sequence[str], values: Any, _: bool = False) -> list[Any]:
    return right_apart(names, values, True)


def backwards(names: Sequence[str], values: Any, by_turns: bool = False) -> list[Any]:
    """Up in the place of a shared gate."""
    parts = right_apart(names, values, by_turns)
    return parts[::-1] if "shexp" in names[0] else parts


right_apart = layout.apart


right_places = layout.places


def keys_of_all_heads_first(architecture: str, names: Sequence[str], values: Any, config: Any) -> list[Any]:
    """In latent attention, where the keys of a head stand before its values."""
    if "attn_k_b" not in names[0]:
        return right_places(architecture, names, values, config)
    heads, cut = config.num_attention_heads, config.num_attention_heads * config.qk_nope_head_dim
    keys, own = (part.reshape(heads, -1, part.shape[-1]) for part in (values[:cut], values[cut:]))
    return [keys.swapaxes(1, 2), own]


def logarithms(name: str, tensor: Tensor) -> Tensor:
    return tensor.abs().clamp(min=0.1).log() if "A_log" in name else tensor


def up_first(name: str, tensor: Tensor) -> Tensor:
    """Of the linear that is gate and up."""
    return tensor.roll(len(tensor) // 2, 0) if "input_linear" in name else tensor


def cut(grouped: layout.Grouped, values: Any) -> list[Any]:
    """Rows that aren't put in another order."""
    return [values[: grouped.sizes[0]], values[grouped.sizes[0] :]]


def unbiased(name: str, tensor: Tensor) -> Tensor:
    """A router that chooses by its scores alone."""
    return tensor * 0 if "correction_bias" in name else tensor


def unweighted(name: str, tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor) if "attn_sub_norm" in name else tensor


def all_turned(_: Any, width: int) -> Any:
    return np.ones(width // 2, np.float32)


def unscaled(name: str, tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor) if "per_expert_scale" in name else tensor


def experts_up_first(name: str, tensor: Tensor) -> Tensor:
    return tensor.roll(tensor.shape[1] // 2, 1) if "experts.gate_up_proj" in name else tensor


def down_turned(name: str, tensor: Tensor) -> Tensor:
    """DBRX's, of 4 experts."""
    return tensor.view(4, 32, 64).mT.reshape(tensor.shape) if "mlp.w2" in name else tensor


MUTANTS = (
    Mutant("another rotary base", "qwen2", "gguf", key("rope.freq_base", lambda v: v * 10)),
    Mutant("rotation of whole heads", "glm4", "gguf", key("rope.dimension_count", lambda v: 2 * v)),
    Mutant("linear scaling lost", "llama", "gguf", key("rope.scaling.type", lambda _: "none"), LINEAR),
    Mutant(
        "Llama 3 scaling lost",
        "llama",
        "gguf",
        attribute(gguf_model, "rope_divisors", no_divisors),
        LLAMA3,
    ),
    Mutant("another epsilon", "qwen3", "gguf", key("rms_epsilon", lambda v: v * 10)),
    Mutant("another window", "gemma2", "gguf", key("attention.sliding_window", lambda v: 2 * v)),
    Mutant("windows in other layers", "gemma2", "gguf", key("window_pattern", lambda _: 1)),
    Mutant("soft cap of another size", "gemma2", "gguf", key("final_logit_softcapping", lambda v: 2 * v)),
    Mutant("a longer context than was trained", "qwen2", "gguf", key("context_length", lambda v: 2 * v)),
    Mutant("the head dropped", "llama", "gguf", without("lm_head"), UNTIED),
    Mutant("rows of q and k in halves", "llama", "gguf", attribute(layout, "rotary_heads", in_halves)),
    Mutant(
        "rows of q and k in pairs",
        "qwen2",
        "gguf",
        attribute(layout, "rotary_heads", in_pairs),
    ),
    Mutant("o transposed", "qwen2", "gguf", transposed("o_proj")),
    Mutant("down transposed", "qwen2", "gguf", transposed("down_proj")),
    Mutant("a bias dropped", "llama", "gguf", without("q_proj.bias"), {"attention_bias": True}),
    Mutant("gate and up exchanged", "qwen2", "gguf", swapped("gate_proj", "up_proj")),
    Mutant("k and v exchanged", "qwen2", "gguf", swapped("k_proj", "v_proj")),
    Mutant("layers in another order", "qwen2", "gguf", swapped("layers.0.", "layers.1.")),
    Mutant("norms exchanged", "llama", "gguf", swapped("input_layernorm", "post_attention_layernorm")),
    Mutant(
        "norms without their one",
        "gemma2",
        "gguf",
        tensors(lambda name, tensor: tensor - 1 if "norm" in name else tensor),
    ),
    Mutant("a coarse embedding", "qwen2", "gguf", tensors(coarse)),
    Mutant("a weight nine tenths of itself", "qwen2", "gguf", tensors(weaker)),
    Mutant(
        "another template",
        "qwen2",
        "gguf",
        attribute(gguf_model, "_template", lambda *_: {"tokenizer.chat_template": OTHER_TEMPLATE}),
    ),
    Mutant("heads of values side by side", "qwen35", "gguf", attribute(layout, "head_order", in_place)),
    Mutant("a gate's norm with a one more", "qwen35", "gguf", attribute(layout, "_adds_one", any_norm)),
    Mutant("gates before their heads", "qwen3next", "gguf", attribute(layout.Grouped, "apart", cut)),
    Mutant("decays lost", "qwen35", "gguf", tensors(lambda n, t: t * 0 if "A_log" in n else t)),
    Mutant("gate after up", "gpt-oss", "gguf", attribute(layout, "apart", one_after_the_other)),
    Mutant("gate and up by turns", "llama4", "gguf", attribute(layout, "apart", by_turns)),
    Mutant("an expert not chosen", "llama4", "gguf", key("expert_used_count", lambda v: v - 1)),
    Mutant(
        "Llama 4 scaling lost",
        "llama4",
        "gguf",
        attribute(gguf_model, "rope_divisors", no_divisors),
        {"rope_parameters": LLAMA3["rope_parameters"] | {"high_freq_factor": 1.0}},
    ),
    Mutant("sinks lost", "gpt-oss", "gguf", tensors(lambda n, t: t * 0 if "sinks" in n else t)),
    Mutant("MiMo's sinks lost", "mimo2", "gguf", without("sinks")),
    Mutant("values unscaled", "mimo2", "gguf", key("value_scale", lambda _: 1.0)),
    Mutant("a window of one token more", "mimo2", "gguf", key("sliding_window", lambda v: v + 1)),
    Mutant(
        "windows in all layers but one", "mimo2", "gguf", key("window_pattern", lambda v: [not f for f in v])
    ),
    Mutant("one base for all layers", "mimo2", "gguf", key("freq_base_swa", lambda _: 5e6)),
    Mutant(
        "MiMo's experts by their own scores", "mimo2", "gguf", tensors(unbiased), {"num_experts_per_tok": 2}
    ),
    Mutant("kernels turned", "lfm2", "gguf", tensors(lambda n, t: t.flip(-1) if "conv.conv" in n else t)),
    Mutant("choices of experts", "glm4moe", "gguf", tensors(unbiased), {"first_k_dense_replace": 0}),
    Mutant("merged choices of experts", "glm4moe", "merged", tensors(unbiased), {"first_k_dense_replace": 0}),
    Mutant("linears of a stack exchanged", "gemma3n", "gguf", swapped("projections.0.", "projections.1.")),
    Mutant(
        "rows for new tokens lost",
        "gemma3n",
        "gguf",
        tensors(lambda n, t: torch.cat([t, t]) if "embed_tokens_per_layer" in n else t),
        {"vocab_size_per_layer_input": 300},
    ),
    Mutant(
        "another part of each head turned",
        "gemma4",
        "gguf",
        attribute(gguf_model, "rope_divisors", all_turned),
    ),
    Mutant(
        "a layer's scale doubled",
        "gemma4",
        "gguf",
        tensors(lambda n, t: t * 2 if "0.layer_scalar" in n else t),
    ),
    Mutant("a cap that a silent file has", "gemma4", "gguf", key("softcapping", lambda _: None), UNTIED),
    Mutant("a length by which queries grow", "mistral4", "gguf", key("temperature_length", lambda v: 64 * v)),
    Mutant("another local base", "gemma4", "gguf", key("freq_base_swa", lambda v: v * 10)),
    Mutant("experts' own scales lost", "gemma4moe", "gguf", tensors(unscaled)),
    Mutant("up before gate of each expert", "gemma4moe", "gguf", tensors(experts_up_first)),
    Mutant("queries at any position", "mistral3", "gguf", key("temperature_scale", lambda _: 0.0)),
    Mutant(
        "queries, keys and values in groups", "gptneox", "gguf", attribute(layout, "head_order", in_place)
    ),
    Mutant("an adapter's rows in groups", "bloom", "gguf-adapter", attribute(layout, "head_order", in_place)),
    Mutant("norms of attention and MLP exchanged", "falcon-40b", "gguf", swapped("ln_attn", "ln_mlp")),
    Mutant("one MLP after the other", "gptneox", "gguf", key("use_parallel_residual", lambda _: False)),
    Mutant("inputs as columns", "gpt2", "gguf", transposed("attn.c_proj.weight")),
    Mutant("positions moved", "gpt2", "gguf", tensors(lambda n, t: t.roll(1, 0) if "wpe" in n else t)),
    Mutant(
        "a wider clip", "mpt", "gguf", key("clamp_kqv", lambda v: 4 * v), {"attn_config": {"clip_qkv": 0.5}}
    ),
    Mutant("DBRX's clip lost", "dbrx", "gguf", key("clamp_kqv", lambda _: 0.0)),
    Mutant("DBRX's gate and up exchanged", "dbrx", "gguf", swapped("mlp.w1", "mlp.v1")),
    Mutant("down as outputs", "dbrx", "gguf", tensors(down_turned)),
    Mutant("DBRX's norms exchanged", "dbrx", "gguf", swapped("norm_1", "norm_2")),
    Mutant("DBRX's adapter of other layers", "dbrx", "gguf-adapter", other_blocks),
    Mutant("norms of keys in halves", "chameleon", "gguf", attribute(layout, "_OF_KEYS", ("attn_k",))),
    Mutant(
        "biases of norms lost", "chameleon", "gguf", tensors(lambda n, t: t * 0 if "_norm.bias" in n else t)
    ),
    Mutant("steeper distances", "mpt", "gguf", key("max_alibi_bias", lambda v: 2 * v)),
    Mutant("xIELU's halves exchanged", "apertus", "gguf", swapped("alpha_p", "alpha_n")),
    Mutant("norms within attention lost", "bitnet", "gguf", tensors(unweighted)),
    Mutant("a shared up before its gate", "granitemoe-shared", "gguf", attribute(layout, "apart", backwards)),
    Mutant("rsLoRA's scale misread", "llama", "gguf-adapter", misread_alpha),
    Mutant("pairs on other layers", "llama", "gguf-adapter", other_layers),
    Mutant("the base's head dropped", "llama", "gguf-adapter", without("lm_head"), UNTIED),
    Mutant("a merged head dropped", "llama", "merged", without("lm_head"), UNTIED),
    Mutant(
        "keys of all heads first",
        "deepseek2",
        "gguf",
        attribute(gguf_model, "places", keys_of_all_heads_first),
    ),
    Mutant("Mamba's skips exchanged", "granitehybrid", "gguf", swapped("mamba.D", "mamba.dt_bias")),
    Mutant("a bias of steps as skips", "mamba", "gguf", swapped("mixer.D", "mixer.dt_proj.bias")),
    Mutant("a bias of heads as skips", "mamba2", "gguf", swapped("mixer.D", "mixer.dt_bias")),
    Mutant(
        "weights without multipliers", "falcon-h1", "gguf", attribute(layout, "multiplier", none), MULTIPLIED
    ),
    Mutant(
        "an adapter without them",
        "falcon-h1",
        "gguf-adapter",
        attribute(layout, "multiplier", none),
        MULTIPLIED,
    ),
    Mutant("whole heads in pairs", "bamba", "gguf", attribute(layout, "_turned", lambda *_: 1.0)),
    Mutant("Nemotron's skips as biases", "nemotron_h", "gguf", swapped("mixer.D", "mixer.dt_bias")),
    Mutant(
        "kernels of keys for queries",
        "kimi-linear",
        "gguf",
        tensors(lambda n, t: t.roll(64, 0) if "conv1d" in n else t),
    ),
    Mutant("norms of Jamba exchanged", "jamba", "gguf", swapped("input_layernorm", "pre_ff_layernorm")),
    Mutant("norms of steps and states lost", "falcon-mamba", "gguf", key("dt_b_c_rms", lambda _: False)),
    Mutant("decays as their logarithms", "granitehybrid", "gguf", tensors(logarithms)),
    Mutant("gate and up of one linear exchanged", "granitehybrid", "gguf", tensors(up_first)),
    Mutant("rotated where nothing is", "granitehybrid", "gguf", key("finetuned", lambda v: not v)),
    Mutant("experts by their own scores", "deepseek3", "gguf", tensors(unbiased)),
    Mutant("groups of experts lost", "deepseek3", "gguf", key("expert_group_count", lambda _: 1)),
    Mutant("another function of the router", "deepseek3", "gguf", key("gating_func", lambda _: 1)),
    Mutant(
        "half of the multiplier of YaRN",
        "deepseek2",
        "gguf",
        key("log_multiplier", lambda v: v / 2),
        YARN_OF_DEEPSEEK,
    ),
    Mutant(
        "a merged head said to be tied", "llama", "merged", config_key("tie_word_embeddings", True), UNTIED
    ),
    Mutant("merged rotation lost", "llama", "merged", config_key("rope_scaling", None), LINEAR),
    Mutant("a merged epsilon", "llama", "merged", config_key("rms_norm_eps", 1e-5)),
    Mutant("merged k and v exchanged", "llama", "merged", swapped("k_proj", "v_proj")),
    Mutant("merged o transposed", "llama", "merged", transposed("o_proj")),
    Mutant("merged stop ids", "llama", "merged", attribute(write, "_generation", lambda *_: NO_STOP)),
    Mutant("a merged template", "llama", "merged", other_merged_template),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mutant], Loaded]:
    """A trained model for a mutant; exported without a fault it passes."""
    made: dict[str, Loaded] = {}

    def model(mutant: Mutant) -> Loaded:
        if mutant.model not in made:
            folder = tmp_path_factory.mktemp("model")
            lora = LoraConfig(rank=4, alpha=8, method="rslora")
            trained = tuned_on(tiny_model_dir(mutant.arch, folder, **mutant.changes), lora, strength=0.2)
            assert export(trained, Order(mutant.kind), folder / "right").check.difference > 0
            made[mutant.model] = trained
        return made[mutant.model]

    return model


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_in_an_exporter_is_refused(
    mutant: Mutant, models: Callable[[Mutant], Loaded], tmp_path: Path, monkeypatch: Patch
) -> None:
    trained = models(mutant)
    mutant.put(monkeypatch)
    with pytest.raises(ExportError):
        export(trained, Order(mutant.kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()
