"""What a model's shapes say about memory: weights, what a layer keeps for its backward pass, what an adapter
adds.

All of it is read from the module tree on the meta device (`base.skeleton`); no weight is needed. A frozen
layer as `compute` has it keeps, for each token:
the input of every norm, the input of every group of linears that read the same tensor, q, k and v after the
rotation, and gate and up, from which down_proj's input is computed again. `tests/test_memory.py` counts what
autograd really keeps, for every architecture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from sapwood.adapter.places.experts import named_stacks
from sapwood.adapter.places.targets import adapted_linears, resolve_targets
from sapwood.base.inspect import largest
from sapwood.base.network.parts import decoder_of
from sapwood.compute.recompute import decoder_layers
from sapwood.config.sections import LoraConfig

LAST_LINEARS = ("o_proj", "down_proj", "out_proj", "dense", "fc2", "dense_4h_to_h")  # read what others made
GATED = {"up_proj", "gate_up_proj"}  # beside them down_proj's input is computed again
PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "top_k_experts",
)
HEAD_NORMS = {"q_norm": "q_proj", "k_norm": "k_proj"}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes in elements.

    Attributes:
        layers: decoder layers.
        hidden, vocabulary, heads: as in the config; ``heads`` are the query heads.
        linears: weights of the decoder's linears, all layers; the head isn't one of them.
        embedding: rows times width; ``tied``: the head is the embedding.
        kept: what one layer keeps for its backward pass, for each token, attention scores aside.
        widest: the widest activation inside a layer (of the MLP, usually).
        cache: keys and values of one layer, for each token of an answer.
    """

    layers: int
    hidden: int
    vocabulary: int
    heads: int
    linears: int
    embedding: int
    tied: bool
    kept: int
    widest: int
    cache: int

    @property
    def weights(self) -> int:
        return self.linears + self.embedding * (1 if self.tied else 2)


def shapes_of(network: Any) -> Shapes:
    """network: a transformers model, for example on the meta device."""
    text = network.config.get_text_config()
    layers = decoder_layers(network)
    heads = largest(text, "num_attention_heads") or 1  # layers without attention have none
    decoder = sum(parameter.numel() for parameter in decoder_of(network).parameters())
    embedding = network.get_input_embeddings().weight.numel()
    outs = [linear.out_features for _, linear in _linears(layers[0])]
    head_dim = largest(text, "head_dim") or text.hidden_size // heads
    key_heads = largest(text, "num_key_value_heads") or heads
    return Shapes(
        layers=len(layers),
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        heads=heads,
        linears=decoder - embedding,
        embedding=embedding,
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        kept=max(_kept(layer) + _kept_by_experts(layer, text) for layer in layers),
        widest=max(
            [text.hidden_size, *outs, *(2 * one for layer in layers for one in _experts(layer, text))]
        ),
        cache=2 * key_heads * head_dim,
    )


def usual_shapes(
    layers: int, hidden: int, mlp: int, heads: int, key_heads: int, vocabulary: int, *, tied: bool
) -> Shapes:
    """Shapes of a Llama-like model, from the numbers that its config holds."""
    head_dim = 128 if hidden >= 1536 and heads * 128 == hidden else 64
    query, keys = heads * head_dim, key_heads * head_dim
    return Shapes(
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        heads=heads,
        linears=layers * (hidden * (2 * query + 2 * keys) + 3 * hidden * mlp),
        embedding=vocabulary * hidden,
        tied=tied,
        kept=4 * hidden + 2 * query + 2 * keys + 2 * mlp,
        widest=max(hidden, mlp),
        cache=2 * keys,
    )


# What people train: sizes of well-known models, to say what fits a machine before any is there.
KNOWN = {
    "SmolLM2 135M": usual_shapes(30, 576, 1536, 9, 3, 49_152, tied=True),
    "Qwen2.5 0.5B": usual_shapes(24, 896, 4864, 14, 2, 151_936, tied=True),
    "Qwen2.5 1.5B": usual_shapes(28, 1536, 8960, 12, 2, 151_936, tied=True),
    "Llama 3.2 3B": usual_shapes(28, 3072, 8192, 24, 8, 128_256, tied=True),
    "Llama 2 7B": usual_shapes(32, 4096, 11_008, 32, 32, 32_000, tied=False),
    "Llama 2 13B": usual_shapes(40, 5120, 13_824, 40, 40, 32_000, tied=False),
}


def trained_parameters(network: Any, config: LoraConfig) -> int:
    """What is trained: rank times (in + out) for every adapted linear; all of the base in full fine-tuning;
    keys and values for each virtual token. IA3 is so small that it doesn't count."""
    if config.method == "full":
        return sum(parameter.numel() for parameter in network.parameters())
    if config.lead:
        shapes = shapes_of(network)
        return config.lead * max(shapes.hidden, shapes.layers * shapes.cache)
    if config.method == "ia3":
        return 0
    adapted = adapted_linears(network, resolve_targets(network, config.targets))
    experts = named_stacks(network, config.targets).values()
    sides = [sum(linear.weight.shape) for linear in adapted]
    whole = len(config.train_also) * network.get_input_embeddings().weight.numel()
    return whole + config.rank * sum([*sides, *(len(stack) * sum(stack.shape[1:]) for stack in experts)])


def adapted_experts(network: Any, config: LoraConfig) -> tuple[int, int]:
    """Numbers of the stacks of experts that are trained: of all, and of the largest. PEFT adds what is learnt
    to the whole of a stack, in each layer, and keeps the sum for the backward pass."""
    sizes = [stack.numel() for stack in named_stacks(network, config.targets).values()]
    return (sum(sizes), max(sizes, default=0)) if config.on_linears else (0, 0)


def _linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    modules = cast("Iterable[tuple[str, nn.Module]]", layer.named_modules())
    return [(name, module) for name, module in modules if isinstance(module, nn.Linear)]


def _experts(layer: nn.Module, text: Any) -> list[int]:
    """For each mixture of a layer, how wide one token's experts are together, between their two products."""
    chosen = next((value for key in PER_TOKEN if isinstance(value := getattr(text, key, None), int)), 1)
    downs = [p for name, p in layer.named_parameters() if p.dim() == 3 and name.endswith("down_proj")]
    return [chosen * p.shape[1:].numel() // text.hidden_size for p in downs]


def _kept_by_experts(layer: nn.Module, text: Any) -> int:
    """Elements that one token leaves behind in its experts, which are stacks of matrices and no linears: what
    gate and up give, the activated gate, their product with the weight of each expert, and its gradient."""
    chosen = next((value for key in PER_TOKEN if isinstance(value := getattr(text, key, None), int)), 1)
    return sum(3 * width + chosen * text.hidden_size for width in _experts(layer, text))


def _kept(layer: nn.Module) -> int:
    """Elements that one token leaves behind in a layer."""
    linears = _linears(layer)
    outs = {name.rpartition(".")[2]: linear.out_features for name, linear in linears}
    kept, readers = 0, set[str]()
    for name, linear in linears:
        parent, _, leaf = name.rpartition(".")
        if leaf in LAST_LINEARS:
            kept += 0 if leaf == "down_proj" and GATED & outs.keys() else linear.in_features
            continue
        kept += linear.out_features  # q, k, v: by attention; gate, up: by their product
        if parent not in readers:
            readers.add(parent)
            kept += linear.in_features
    for name, module in cast("Iterable[tuple[str, nn.Module]]", layer.named_modules()):
        weight: Any = getattr(module, "weight", None)
        if "Norm" in type(module).__name__ and weight is not None:
            of_heads = HEAD_NORMS.get(name.rpartition(".")[2], "")  # one norm for all heads, run on each
            width = outs.get(of_heads) or int(weight.numel())
            kept += width + width // int(weight.numel())  # and a number for each row
    return kept
