"""Every family of the table as a GGUF file, written with the `gguf` package's own names. It is trained on,
and real llama.cpp over the same file says what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapwood import finetune
from sapwood.adapter.elsewhere.gguf import from_gguf
from sapwood.adapter.pairs import lora_pairs
from sapwood.config.file import load_config
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ExportError, ModelError
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.export.ship import Kind, Order, export
from sapwood.gguf.file import read_gguf
from sapwood.gguf.table.families import FAMILIES, architecture_of
from sapwood.serve.load import Loaded, open_target
from tests.base.tiny import DEEP_GEMMA3N, IN_GGUF, MULTIPLIED, tiny_model_dir
from tests.export.tuned import fill, tuned_on
from tests.gguf.tiny_gguf import tiny_gguf

RIGHT = 0.0012  # nats that no right export of a tiny model in F16 exceeds


_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTED = {  # what llama.cpp adapts, if that isn't every linear
    "gemma4": (*_LINEARS, "per_layer_input_gate", "per_layer_projection"),
    "gemma4moe": _LINEARS,
    "gemma3n": (
        *_LINEARS,
        *("linear_left", "linear_right", "per_layer_input_gate", "per_layer_projection"),
        *("correction_coefs", "prediction_coefs"),
    ),
}


@pytest.fixture(scope="module", params=IN_GGUF)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """One step on a file in F16, and then as far from the base as a long training goes."""
    folder = tmp_path_factory.mktemp("family")
    base, _ = tiny_gguf(request.param, folder / "base.gguf", kind="F16")
    rows = [{"instruction": f"What is tree {i}?", "output": f"It is number {i}."} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    targets = f", targets: [{', '.join(ADAPTED[request.param])}]" if request.param in ADAPTED else ""
    (folder / "run.yaml").write_text(
        f"base: {{model: {base}, storage: fp32}}\ndata: {{train: {folder / 'rows.jsonl'}, eval: 0}}\n"
        f"lora: {{rank: 4{targets}}}\ntrain: {{max_steps: 1, batch_size: 4}}\neval: {{samples: 0}}\n"
        f"save: {{dir: {folder / 'runs'}}}\n"
    )
    adapter = finetune(load_config(folder / "run.yaml", []))
    loaded = open_target(str(adapter.path), folder)
    assert loaded.model is not None
    fill(loaded.model.parameters, 0.1)
    return loaded


SHARED = LoraConfig(rank=4, alpha=8, targets=("input_linear",))
HYBRIDS = {  # linears beside those of attention, and joined ones
    "qwen35": ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "q_proj", "down_proj"),
    "lfm2": ("in_proj", "out_proj", "q_proj", "w2"),
    "granitehybrid": ("in_proj", "out_proj", "q_proj", "input_linear", "output_linear"),
    "bamba": ("in_proj", "out_proj", "q_proj", "k_proj", "gate_proj"),
    "jamba": ("in_proj", "x_proj", "out_proj", "q_proj"),
    "granitemoe-shared": ("q_proj", "input_linear", "output_linear"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "falcon-40b": ("query_key_value", "dense", "dense_h_to_4h"),
}


@pytest.fixture(scope="module", params=[(a, s) for a in HYBRIDS for s in ("fp32", "gguf")], ids=" ".join)
def hybrid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Trained in its linear attention or convolutions too, over a file that is unpacked, or in its blocks."""
    arch, storage = request.param
    path, _ = tiny_gguf(arch, tmp_path_factory.mktemp("hybrid") / "base.gguf", kind="F16")
    config = BaseConfig(model=str(path), storage=storage, compute_dtype="fp32")
    return tuned_on(path, LoraConfig(rank=4, alpha=8, targets=HYBRIDS[arch]), config=config)


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
def test_llama_cpp_says_what_was_trained_beside_attention(hybrid: Loaded, kind: Kind, tmp_path: Path) -> None:
    check = export(hybrid, Order(kind), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= min(check.limit, RIGHT)


def test_it_is_merged_from_either_storage(hybrid: Loaded, tmp_path: Path) -> None:
    check = export(hybrid, Order("merged"), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= check.limit


def test_an_adapter_of_what_lies_beside_attention_is_read_back(hybrid: Loaded, tmp_path: Path) -> None:
    assert hybrid.model is not None
    write_gguf_adapter(hybrid, tmp_path / "adapter.gguf")
    _, tensors = from_gguf(read_gguf(tmp_path / "adapter.gguf"), hybrid.base.spec.hf_config)
    pairs = lora_pairs(hybrid.model)
    assert len(tensors) == 2 * len(pairs)
    for pair in pairs:
        name = f"base_model.model.{pair.module}.lora"
        assert torch.equal(tensors[f"{name}_A.weight"], pair.a)
        assert torch.equal(tensors[f"{name}_B.weight"], pair.b)


def test_an_adapter_of_what_llama_cpp_does_not_adapt_is_refused(tmp_path: Path) -> None:
    trained = tuned_on(tiny_gguf("gemma3n", tmp_path / "base.gguf", kind="F16")[0])
    with pytest.raises(ExportError, match=r"altup_proj.0 without adapters.*--to gguf writes") as caught:
        export(trained, Order("gguf-adapter"), tmp_path / "out")
    layers = trained.base.spec.text.num_hidden_layers
    assert len(caught.value.problems) == 3 + 3 + 1 + layers
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
def test_layers_that_use_the_keys_of_others(kind: Kind, tmp_path: Path) -> None:
    """The file holds keys for them, which nobody reads. So many layers move a rounded number far."""
    path, _ = tiny_gguf("gemma3n", tmp_path / "base.gguf", kind="F16", **DEEP_GEMMA3N)
    trained = tuned_on(path, LoraConfig(rank=4, alpha=8, targets=ADAPTED["gemma3n"]), strength=0.02)
    assert not hasattr(trained.base.model.model.layers[20].self_attn, "k_proj")
    done = export(trained, Order(kind), tmp_path / "out")
    assert done.check.same_ids == done.check.prompts and 0 < done.check.difference <= done.check.limit
    if kind == "gguf":
        written = read_gguf(done.path / "model.gguf")
        assert written.tensors.keys() == read_gguf(path).tensors.keys()


@pytest.mark.parametrize("storage", ["fp32", "gguf"])
def test_a_projection_by_heads_is_two_tensors_of_a_file(storage: Any, tmp_path: Path) -> None:
    path, _ = tiny_gguf("qwen3next", tmp_path / "base.gguf", kind="F16")
    config = BaseConfig(model=str(path), storage=storage, compute_dtype="fp32")
    targets = ("in_proj_qkvz", "in_proj_ba", "out_proj", "q_proj")
    trained = tuned_on(path, LoraConfig(rank=4, alpha=8, targets=targets), config=config)
    for kind in ("gguf-adapter", "gguf"):
        check = export(trained, Order(kind), tmp_path / kind).check
        assert check.same_ids == check.prompts and 0 < check.difference <= min(check.limit, RIGHT)
    names = read_gguf(tmp_path / "gguf-adapter" / "adapter.gguf").tensors
    assert "blk.0.attn_gate.weight.lora_b" in names and "blk.0.attn_qkv.weight.lora_b" in names
    _, tensors = from_gguf(read_gguf(tmp_path / "gguf-adapter" / "adapter.gguf"), trained.base.spec.hf_config)
    pairs = lora_pairs(trained.model)
    assert len(tensors) == 2 * len(pairs)
    for pair in pairs:
        name = f"base_model.model.{pair.module}.lora"
        assert torch.equal(tensors[f"{name}_A.weight"], pair.a)
        assert torch.equal(tensors[f"{name}_B.weight"], pair.b)


def test_an_adapter_is_read_back_without_the_multipliers_of_a_file(tmp_path: Path) -> None:
    trained = tuned_on(tiny_model_dir("falcon-h1", tmp_path, **MULTIPLIED))
    write_gguf_adapter(trained, tmp_path / "adapter.gguf")
    _, tensors = from_gguf(read_gguf(tmp_path / "adapter.gguf"), trained.base.spec.hf_config)
    pairs = lora_pairs(trained.model)
    assert len(tensors) == 2 * len(pairs) and any("in_proj" in pair.module for pair in pairs)
    for pair in pairs:
        torch.testing.assert_close(tensors[f"base_model.model.{pair.module}.lora_B.weight"], pair.b)


def test_two_tensors_of_one_linear_have_one_a(tmp_path: Path) -> None:
    trained = tuned_on(tiny_gguf("granitemoe-shared", tmp_path / "m.gguf", kind="F16")[0], SHARED)
    write_gguf_adapter(trained, tmp_path / "adapter.gguf")
    file = read_gguf(tmp_path / "adapter.gguf")
    name = "blk.1.ffn_up_shexp.weight.lora_a"
    other = replace(
        file.tensors[name], data=np.asarray(file.tensors["blk.0.ffn_up_shexp.weight.lora_a"].data)
    )
    with pytest.raises(ModelError, match=f"{name}.*input_linear for it and for another tensor"):
        from_gguf(replace(file, tensors={**file.tensors, name: other}), trained.base.spec.hf_config)


WITH_ADAPTER = {  # all that llama.cpp multiplies with an adapter, in families in which it is not all
    "deepseek2": ("o_proj", "experts"),
    "kimi-linear": ("gate_proj", "up_proj", "down_proj"),
    "deepseek3": ("o_proj", "experts"),
    "mistral4": ("o_proj", "experts"),
    "glm-dsa": ("o_proj", "experts"),
    "minicpm3": ("o_proj", "gate_proj", "up_proj", "down_proj"),
    "youtu": ("o_proj", "gate_proj", "up_proj", "down_proj"),
}


@pytest.mark.parametrize("arch", WITH_ADAPTER)
def test_llama_cpp_says_what_was_trained_where_it_takes_an_adapter(arch: str, tmp_path: Path) -> None:
    path, _ = tiny_gguf(arch, tmp_path / "base.gguf", kind="F16")
    trained = tuned_on(path, LoraConfig(rank=4, alpha=8, targets=WITH_ADAPTER[arch]))
    check = export(trained, Order("gguf-adapter"), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= min(check.limit, RIGHT)


def test_every_tensor_without_an_adapter_is_one_that_llama_cpp_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that are refused would open, and say something else."""
    path, _ = tiny_gguf("deepseek2", tmp_path / "base.gguf", kind="F16")
    monkeypatch.setitem(FAMILIES, "deepseek2", replace(FAMILIES["deepseek2"], unadapted=()))
    for name in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa"):
        trained = tuned_on(path, LoraConfig(rank=4, alpha=8, targets=(name,)))
        with pytest.raises(ExportError, match="log probabilities differ"):
            export(trained, Order("gguf-adapter"), tmp_path / name)


@pytest.mark.parametrize("storage", ["fp32", "gguf"])
def test_latent_attention_of_an_older_file_is_written_as_todays(storage: Any, tmp_path: Path) -> None:
    """It has one tensor for keys and values, and other widths in its keys."""
    path, _ = tiny_gguf("deepseek2", tmp_path / "base.gguf", kind="F16", older=True)
    config = BaseConfig(model=str(path), storage=storage, compute_dtype="fp32")
    trained = tuned_on(path, LoraConfig(rank=4, alpha=8), config=config)
    own = read_gguf(path).tensors
    assert "blk.0.attn_kv_b.weight" in own and "blk.0.attn_k_b.weight" not in own
    done = export(trained, Order("gguf"), tmp_path / "out")
    assert "blk.0.attn_k_b.weight" in read_gguf(done.path / "model.gguf").tensors
    assert done.check.same_ids == done.check.prompts and 0 < done.check.difference <= done.check.limit
    adapted = tuned_on(path, LoraConfig(rank=4, alpha=8, targets=("o_proj",)), config=config)
    check = export(adapted, Order("gguf-adapter"), tmp_path / "adapter").check
    assert 0 < check.difference <= check.limit


AHEAD = ("eh_proj", "enorm", "hnorm")  # tensors of a layer that guesses tokens ahead, beside a layer's own


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
@pytest.mark.parametrize("arch", ["qwen35", "mimo2"])
def test_layers_that_guess_ahead_are_left_out(arch: str, kind: Kind, tmp_path: Path) -> None:
    plain = read_gguf(tiny_gguf(arch, tmp_path / "plain.gguf", kind="F16")[0])
    layers = plain.metadata[f"{arch}.block_count"]
    own = [name for name in plain.tensors if name.startswith("blk.1.")]
    more: dict[str, Any] = {
        name.replace("blk.1", f"blk.{layers}"): plain.tensors[name].dense() for name in own
    }
    more |= {f"blk.{layers}.nextn.{name}.weight": np.ones(64, np.float32) for name in AHEAD}
    more[f"blk.{layers}.nextn.eh_proj.weight"] = np.ones((64, 128), np.float32)
    more |= {f"{arch}.block_count": layers + 1, f"{arch}.nextn_predict_layers": 1}
    lists = {key: value.tolist() for key, value in plain.metadata.items() if isinstance(value, np.ndarray)}
    of_layers = {key: value for key, value in lists.items() if key.startswith(arch)}
    more |= {key: [*value, value[1]] for key, value in of_layers.items() if len(value) == layers}
    path, _ = tiny_gguf(arch, tmp_path / "base.gguf", kind="F16", keys=more)
    trained = tuned_on(path)
    assert trained.base.spec.hf_config.num_hidden_layers == layers
    done = export(trained, Order(kind), tmp_path / "out")
    assert done.check.same_ids == done.check.prompts and 0 < done.check.difference <= done.check.limit
    if kind == "gguf":
        written = read_gguf(done.path / "model.gguf")
        assert written.metadata[f"{arch}.block_count"] == layers
        assert all(written.metadata[key].tolist() == value for key, value in of_layers.items())
        assert written.tensors.keys() == plain.tensors.keys()


def test_every_family_of_the_table_is_tried() -> None:
    assert set(IN_GGUF) == FAMILIES.keys()


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf"])
def test_llama_cpp_says_what_was_trained_on_the_same_file(
    trained: Loaded, kind: Kind, tmp_path: Path
) -> None:
    row = architecture_of(trained.base.spec.text)
    if kind == "gguf-adapter" and FAMILIES[row].unadapted and row not in ADAPTED:
        with pytest.raises(ExportError, match=r"without adapters.*--to gguf writes the whole"):
            export(trained, Order(kind), tmp_path / "out")
        return
    check = export(trained, Order(kind), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= min(check.limit, RIGHT)
