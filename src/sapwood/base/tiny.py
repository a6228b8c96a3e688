"""A model of the same architecture that is tiny: what training asks of it is tried there before any weight is
loaded.

Whatever decides which code runs stays as it is: kinds of layers, widths of heads, grouped heads, scalings,
norms, biases, soft caps. Only counts and widths shrink: layers to one of each kind, heads, experts, the MLP,
the vocabulary; and windows, so that a short row is longer than its window.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

WINDOW = 8
VOCABULARY = 256
MOST = 100_000_000  # parameters; a copy that is larger isn't tiny
EXPERTS = 4
LIMITS = {  # keys of configs, and what they are at most in the copy
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 64),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 64),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "hidden_size_per_layer_input"), 32),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
}
WIDE = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "intermediate_size_mlp", "mlp_dim")


def tiny_config(hf_config: Any, vocabulary: int = VOCABULARY, *, narrow: bool = True) -> Any:
    """The config of the tiny copy of a model of ``hf_config``, which stays as it is. ``vocabulary``: its rows
    at most. narrow: fewer heads, and as wide as they are; otherwise it only has fewer layers, for a family
    whose widths depend on each other in ways of their own."""
    config = copy.deepcopy(hf_config)
    text = config.get_text_config()
    for key, most in LIMITS.items():
        _limit(text, key, most)
    for key in ("vocab_size", "vocab_size_per_layer_input"):
        _limit(text, key, vocabulary)
    if narrow:
        _narrow(text)
    _shorten(text, pairs=narrow)
    for key in list(text.to_dict()):
        if key.endswith("token_id"):
            _limit(text, key, vocabulary - 1)
    return config


def tiny_model(hf_config: Any, folder: Path, vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """Write a random model of `tiny_config` to ``folder`` in Hugging Face layout; returns its config.

    Raises ValueError where a config of this kind can't be made tiny, and whatever transformers raises.
    """
    try:
        model = _built(tiny_config(hf_config, vocabulary), seed)
    except Exception:  # each architecture has its own
        model = _built(tiny_config(hf_config, vocabulary, narrow=False), seed)
    model.save_pretrained(folder)
    return model.config


def _built(config: Any, seed: int) -> Any:
    """A random model that runs."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST:
        raise ValueError(f"a copy of a few layers still has {size:,} parameters")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() < 2:  # norms and biases start constant, which would hide a mix-up
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
        model.eval()(input_ids=torch.arange(4)[None], use_cache=False)
    return model


def _narrow(text: Any) -> None:
    """Fewer heads of the same width, in groups as before; the model as wide as they are together."""
    heads, width = text.num_attention_heads, text.hidden_size
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    own = getattr(text, "head_dim", None)
    dim = own if isinstance(own, int) else width // heads
    few = min(key_heads, 2)
    text.num_attention_heads = few * min(heads // key_heads, 4)
    if getattr(text, "num_key_value_heads", None):
        text.num_key_value_heads = few
    text.hidden_size = text.num_attention_heads * dim
    for key in WIDE:
        _limit(text, key, 2 * text.hidden_size)


def _shorten(text: Any, *, pairs: bool) -> None:
    """One layer of each kind, two at least if ``pairs``. What is said of each layer is a list as long as the
    layers."""
    count = text.num_hidden_layers
    each = {
        key: list(value)
        for key, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == count and not key.startswith("_")
    }
    kinds: dict[str, int] = {}
    for i in range(count):
        kinds.setdefault(repr([str(values[i]) for values in each.values()]), i)
    chosen = sorted(kinds.values())[:4]
    shared = getattr(text, "num_kv_shared_layers", 0) or 0
    if shared or (pairs and len(chosen) == 1):  # layers that take keys from others need others before them
        chosen = chosen * 2
    for key, values in each.items():
        setattr(text, key, [values[i] for i in chosen])
    text.num_hidden_layers = len(chosen)
    if shared:
        text.num_kv_shared_layers = len(chosen) // 2


def _limit(config: Any, key: str, most: int) -> None:
    """Bring a number, or the numbers of a list, down to ``most``."""
    value = getattr(config, key, None)
    if isinstance(value, list | tuple) and all(isinstance(one, int) for one in value):
        setattr(config, key, [min(one, most) for one in value])
    elif isinstance(value, int) and not isinstance(value, bool) and value > most:
        setattr(config, key, most)
