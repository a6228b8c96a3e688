"""A checkpoint in the layout of ChatGLM3, with random weights and the family's real tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.template.real_tokenizers import tokenizer_files

CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "ffn_hidden_size": 96,
    "hidden_dropout": 0.0,
    "hidden_size": 64,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "torch_dtype": "float16",
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def chatglm_tensors(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden, ffn, heads, groups, size = 64, 96, 4, 2, 16  # as in CONFIG
    fused = (heads + 2 * groups) * size

    def normal(*shape: int, scale: float = 0.15) -> Tensor:
        return torch.randn(*shape, generator=draw) * scale

    tensors = {
        "transformer.embedding.word_embeddings.weight": normal(65024, hidden, scale=1.0),
        "transformer.rotary_pos_emb.inv_freq": torch.full((size // 4,), 9.0),  # a trap: never to be used
        "transformer.encoder.final_layernorm.weight": 1 + normal(hidden),
        "transformer.output_layer.weight": normal(65024, hidden),
    }
    for layer in range(2):
        at = f"transformer.encoder.layers.{layer}."
        tensors |= {
            at + "input_layernorm.weight": 1 + normal(hidden),
            at + "self_attention.query_key_value.weight": normal(fused, hidden),
            at + "self_attention.query_key_value.bias": normal(fused),
            at + "self_attention.dense.weight": normal(hidden, heads * size),
            at + "post_attention_layernorm.weight": 1 + normal(hidden),
            at + "mlp.dense_h_to_4h.weight": normal(2 * ffn, hidden),
            at + "mlp.dense_4h_to_h.weight": normal(hidden, ffn),
        }
    return tensors


def tiny_chatglm_dir(folder: Path, **changes: Any) -> Path:
    """``folder``/tiny-chatglm, as it would be downloaded. ``changes``: keys of config.json; None leaves one
    out."""
    path = folder / "tiny-chatglm"
    path.mkdir()
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(chatglm_tensors(), path / "model.safetensors", metadata={"format": "pt"})
    files = tokenizer_files("chatglm3")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(files / name, path / name)
    # what a checkpoint brings along; whoever imports it fails the test
    (path / "modeling_chatglm.py").write_text("raise SystemExit('code of a model folder was run')\n")
    return path
