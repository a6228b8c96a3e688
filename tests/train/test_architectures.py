"""What `check` passes, `train` trains: over the architectures that transformers knows, each as a tiny folder.
What is trained goes on after a stop as if there had been none. Plain PEFT opens it on the same folder, and
has the same logits, the same loss of rows alone, and the same gradient.

A few of them in every run; all of them with SAPWOOD_ALL_ARCHITECTURES=1. SAPWOOD_FAMILIES=FILE gets a line of
JSON for each: docs/families.py makes its page of them.
"""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from sapwood import finetune
from sapwood.base.network.parts import is_wrapper, whole_class
from sapwood.base.tiny import tiny_config
from sapwood.commands.data import check_config
from sapwood.config.file import load_config
from sapwood.errors import SapwoodError, Stopped
from sapwood.gguf.table.families import FAMILIES
from sapwood.restart import resume
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from sapwood.types import Stepped, Stop
from tests.base.tiny import VOCAB_SIZE, tiny_tokenizer
from tests.base.wrappers import tiny_folder
from tests.train.plain import (
    MOST,
    gap,
    likeliest,
    logits_of,
    milder,
    our_step,
    plain,
    plain_step,
    rows,
    size_of,
    woken,
)

SAMPLE = (
    *("llama", "exaone4", "gpt_oss", "qwen3_moe", "deepseek_v3", "falcon", "mamba", "gpt2", "bert", "xlnet"),
)
MAPPED = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
EVERY = sorted(kind for kind in MAPPED if kind in CONFIG_MAPPING)
CLOSE = 1e-5  # logits, loss and gradients, of the largest
DRAWS = 4  # at which gradients may be compared
KINDS = EVERY if os.environ.get("SAPWOOD_ALL_ARCHITECTURES") else SAMPLE
NO_INPUT_OF_LAYERS = {
    "model_type": "gemma4_text",
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}
EXPERTS: dict[str, Any] = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
FOUR_AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 16, 16, 16]}
TWO_ROPES = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}}
INDEXER = {
    "indexer_n_heads": 8,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 64,
    "indexer_compress_ratio": 8,
}
GRANITE = {  # as released; a softmax of scores times 1 is all but one-hot, and rounding grows
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 16.0,
}
DOTS3 = {  # it multiplies latents by sqrt(width / rank), which is too much beside matrices of unit gain
    "q_lora_rank": 5120,
    "kv_lora_rank": 5120,
    "per_layer_config": {
        f"{i:02}": {
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "kv_lora_rank": 5120,
            "qk_nope_head_dim": 192,
        }
        for i in range(2, 46)
        if i % 4 != 1
    },
}
CHANGES: dict[
    str, dict[str, Any]
] = {  # if the defaults of a config are no model that runs, what makes one of them, as released
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "chameleon": {"vocabulary_map": {"<image>": 10}},
    "cohere_compass": {"text_config": TWO_ROPES},
    "cohere_compass_text": TWO_ROPES,
    "dbrx": {
        "d_model": 256,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 500000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": EXPERTS,
    # rows here are shorter than a block of 128 tokens, so nothing would be learnt of how one is compressed
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16}},
    "dots1": EXPERTS,
    "dots3_note_text": DOTS3,
    "emu3": {"vocabulary_map": {"<image>": 10, "<|extra_200|>": 11}},
    "gemma4_assistant": {"text_config": NO_INPUT_OF_LAYERS},
    "glm46v": {"text_config": HALF},
    "glm4v": {"text_config": HALF},
    "glm4v_moe": {"text_config": HALF | {"head_dim": 128, "num_key_value_heads": 8}},
    "glmga": {"text_config": HALF},
    **dict.fromkeys(("granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared"), GRANITE),
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 0]],
        "downsample_rate": "4/8",
        "text_config": GRANITE,
    },
    "granite_speech": {"text_config": GRANITE},
    "granite_speech_plus": {"text_config": GRANITE},
    "granitemoehybrid": GRANITE
    | {"layer_types": ["linear_attention"] * 5 + ["full_attention"] + ["linear_attention"] * 26},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": {"head_dim": 128, "rope_parameters": FOUR_AXES}},
    "lfm2_moe": {"layer_types": ["conv"] * 2 + ["full_attention"] + ["conv"] * 29},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_omni_moe_thinker": {"text_config": {"head_dim": 128}},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True, "vocab_size": VOCAB_SIZE},
    "step3p7": {"text_config": {"sliding_window": 512}},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
}


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny model with a tokenizer. Skipped if transformers makes none of that kind."""
    config: Any = CONFIG_MAPPING[kind](**CHANGES.get(kind, {}))
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and hasattr(config, "is_decoder"):
        config.is_decoder = True  # as those who use an encoder's or a translator's other half save it
        config.is_encoder_decoder = False
    try:
        return tiny_folder(config, folder)
    except Exception as error:  # each architecture has its own; what doesn't run here can still be downloaded
        try:
            small = tiny_config(config, VOCAB_SIZE)
            if (size := size_of(small)) > MOST:
                raise ValueError(f"it would have {size:,} parameters") from error
            whole_class(small)(small).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
        except Exception:
            note(kind, "unmade", f"{type(error).__name__}: {error}")
            pytest.skip(f"no tiny {kind}: {type(error).__name__}: {error}")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_check_passes_train_trains(kind: str, tmp_path: Path) -> None:
    base = folder_of(kind, tmp_path / "base")
    told = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (tmp_path / "run.yaml").write_text(
        f"base: {{model: {base}, storage: fp32}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}, eval: 0}}\n"
        "lora: {rank: 4}\npack: {length: 256}\ntrain: {max_steps: 2, batch_size: 4}\neval: {samples: 0}\n"
        f"save: {{dir: {tmp_path / 'runs'}}}\n"
    )
    try:
        check_config(tmp_path / "run.yaml", [], as_json=False)
    except SapwoodError as error:
        assert all(problem.what for problem in error.problems)
        note(kind, "refused", f"{error.problems[0].what}: {error.problems[0].why}")
        return
    config = load_config(tmp_path / "run.yaml", [])
    adapter = finetune(config)
    assert adapter_of(stopped_and_resumed(config)) == adapter_of(adapter.path.parent)
    assert not unmoved(adapter.path)
    loaded = open_target(str(adapter.path), tmp_path)
    assert differs(loaded.network, base, adapter.path) <= CLOSE
    prompts = [[5, 80, 300, 41, 77], [7]]
    answers = answer_batch(loaded.network, loaded.tokenizer, prompts, (), Settings(max_new_tokens=3))
    assert [list(a.ids) for a in answers] == [likeliest(loaded.network, prompt, 3) for prompt in prompts]
    way = load_config(adapter.path.parent / "config.yaml").pack.rows
    assert min(gaps(base, adapter.path, tmp_path, alone=way == "alone")) <= CLOSE
    gguf = any(loaded.base.spec.text.model_type in family.kinds for family in FAMILIES.values())
    why, wrapper = adapter.facts["proof"]["trial"]["why"], is_wrapper(loaded.base.spec.hf_config)
    note(kind, way, why, gguf=gguf, wrapper=wrapper)


def test_the_page_names_the_families_that_have_a_gguf_form() -> None:
    """Those of the table by which files are read and written."""
    docs = Path(__file__).parents[2] / "docs"
    rows_of = runpy.run_path(str(docs / "families.py"))["rows_of"]
    page = rows_of((docs / "families.md").read_text(encoding="utf-8"))
    told = {kind: row["gguf"] for kind, row in page.items() if row["rows"] != "refused"}
    written = {kind for family in FAMILIES.values() for kind in family.kinds}
    assert len(told) > 200
    assert {kind: text_kind(kind) in written for kind in told} == told


def text_kind(kind: str) -> str:
    """What transformers calls the language model of a family, by itself."""
    return str(CONFIG_MAPPING[kind]().get_text_config().model_type)


def gaps(base: Path, adapter: Path, folder: Path, *, alone: bool) -> list[float]:
    """How far a step's loss and gradient are from plain PEFT's, at one drawn adapter after the other, until
    they are close; the later half with smaller weights, of the base and of the adapter. A wrong gradient is
    wrong at each of them. Where a ReLU or a router is about to turn, or large weights let rounding grow, the
    gradient of fp32 itself is another one than that of fp64 (docs/log.md)."""
    found: list[float] = []
    size = 0.05
    while len(found) < DRAWS and min(found, default=1.0) > CLOSE:
        if len(found) == DRAWS // 2:
            base, size = milder(base, folder / "milder"), size / 4
        moved = woken(adapter, folder / f"woken-{len(found)}", len(found), size)
        found.append(gap(our_step(base, moved, rows(), alone), plain_step(plain(base, moved), rows())))
    return found


def stopped_and_resumed(config: Any) -> Path:
    config = config.model_copy(update={"name": "stopped"})
    with pytest.raises(Stopped):
        finetune(config, watch=lambda event: Stop() if isinstance(event, Stepped) else None)
    run = next(Path(config.save.dir).glob("*stopped*"))
    resume(run)
    return run


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@torch.no_grad()
def unmoved(adapter: Path) -> list[str]:
    """Linears whose adapters are as they began, although the model was trained."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    return [name for name, values in tensors.items() if "lora_B" in name and not values.any()]


def differs(network: Any, base: Path, adapter: Path) -> float:
    """Largest difference of logits from those of plain PEFT on the whole checkpoint, of the largest logit."""
    ids = torch.arange(5, 25)[None]
    found, wanted = network(input_ids=ids, use_cache=False).logits, logits_of(plain(base, adapter), ids)
    return float((found - wanted).abs().max() / wanted.abs().max())


def note(kind: str, rows: str, why: str, **facts: Any) -> None:
    if (file := os.environ.get("SAPWOOD_FAMILIES")) is not None:
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, "rows": rows, "why": why, **facts}) + "\n")
