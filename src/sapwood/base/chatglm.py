"""Checkpoints of the ChatGLM2 and ChatGLM3 layout as transformers' own GLM classes: their code is never run.

These checkpoints come with a model class of their own, and with names that transformers doesn't know. The
block equals the block of transformers' ``glm`` classes: RMSNorm, multi-query groups, SwiGLU, and a bias on
query, key and value. The first half of each head's dimensions is rotated in neighbouring pairs. Only the
names differ, and query, key and value lie in one matrix::

    self_attention.query_key_value   [(heads + 2 groups) * head_dim, hidden]  ->  q_proj, k_proj, v_proj
    mlp.dense_h_to_4h                [2 * ffn, hidden], gate above up         ->  gate_up_proj, as it is

`tests/base/test_chatglm.py` compares with the attention and rotary of the public description, in plain
torch. The tokenizer's nine control tokens stand in no file in its order: they get the published ids here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapwood.base.folder import read_json
from sapwood.errors import ModelError, Problem, brief

KIND = "chatglm"
FIRST_CONTROL_ID = 64789
CONTROL_TOKENS = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
ROTARY_BASE = 10_000.0

# What the layout fixes; a config that says otherwise belongs to another model of the same name (ChatGLM-6B).
FIXED = {
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
}
SIZES = {
    "vocab_size": "padded_vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "multi_query_group_num",
    "head_dim": "kv_channels",
    "max_position_embeddings": "seq_length",
}
RENAMED = (
    (r"^transformer\.embedding\.word_embeddings", "model.embed_tokens"),
    (r"^transformer\.encoder\.layers", "model.layers"),
    (r"^transformer\.encoder\.final_layernorm", "model.norm"),
    (r"^transformer\.output_layer", "lm_head"),
    (r"^transformer\.rotary_pos_emb", "model.rotary_emb"),  # frequencies, which are computed anew
    (r"self_attention\.dense", "self_attn.o_proj"),
    (r"mlp\.dense_h_to_4h", "mlp.gate_up_proj"),
    (r"mlp\.dense_4h_to_h", "mlp.down_proj"),
)
FUSED = ("self_attention.query_key_value", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])
LOADED_BY = "GlmForCausalLM"


def is_chatglm(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == KIND


def glm_values(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A ``chatglm`` config in the words of transformers' ``GlmConfig``. Raises ModelError with every key that
    is missing, or that says the model is built otherwise."""
    wrong = [Problem(f"{key} is missing", where) for key in SIZES.values() if _size(config, key) is None]
    wrong += [
        Problem(
            f"{key} is {config[key]!r}", where, "the ChatGLM2 and ChatGLM3 layout is the one that is known"
        )
        for key, expected in FIXED.items()
        if config.get(key, expected) != expected
    ]
    if wrong:
        raise ModelError(wrong)
    return {name: config[key] for name, key in SIZES.items()} | {
        "model_type": "glm",
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5),
        "attention_bias": bool(config.get("add_qkv_bias", False)),
        "hidden_act": "silu",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": ROTARY_BASE * config.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": config.get("pad_token_id", 0),
    }


@contextmanager
def known_layout(hf_config: Any) -> Generator[None]:
    """While open, transformers loads the layout's tensors into its GLM classes, split and renamed. For other
    models it does nothing."""
    if hf_config.model_type != "glm":
        yield
        return
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

    layout = [*(WeightRenaming(theirs, ours) for theirs, ours in RENAMED)]
    register_checkpoint_conversion_mapping(
        LOADED_BY, [*layout, WeightConverter(*FUSED, operations=[Split(dim=0)])], overwrite=True
    )
    try:
        yield
    finally:  # otherwise a GLM that is saved later would have this layout
        register_checkpoint_conversion_mapping(LOADED_BY, [], overwrite=True)


def chatglm_tokenizer(path: Path) -> Any:
    """The tokenizer from ``tokenizer.json``, with the control tokens that the checkpoint's own class would
    add. Raises ModelError if they don't come to stand at the published ids."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    settings = path / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    keys = ("pad_token", "unk_token", "chat_template")
    chosen = {key: config[key] for key in keys if isinstance(config.get(key), str)}
    try:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path / "tokenizer.json"),
            eos_token="</s>",
            clean_up_tokenization_spaces=False,
            **chosen,
        )
    except Exception as error:  # tokenizers raises a bare Exception
        raise ModelError("no usable tokenizer", str(path / "tokenizer.json"), brief(error)) from None
    control = [AddedToken(text, normalized=False, special=False) for text in CONTROL_TOKENS]
    tokenizer.add_tokens(control)  # type: ignore[arg-type]  # a list is a Sequence of either
    for number, text in enumerate(CONTROL_TOKENS, FIRST_CONTROL_ID):
        if tokenizer.convert_tokens_to_ids(text) != number:
            why = f"{text} should be {number}, it is {tokenizer.convert_tokens_to_ids(text)}"
            mend = "put the model's own tokenizer.json there"
            raise ModelError("not the tokenizer of ChatGLM3", str(path), why, mend)
    return tokenizer


def _size(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
