from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sapwood.errors import ModelError
from sapwood.gguf.facts import config_values
from sapwood.gguf.file import read_gguf
from sapwood.gguf.layout import permute, unpermute
from sapwood.gguf.names import is_stack, module_names, parameter_names, tensor_names
from sapwood.gguf.rope import llama3_divisors
from sapwood.gguf.settled import flattened, settled
from sapwood.gguf.table.families import FAMILIES
from sapwood.gguf.table.modules import STACKS
from tests.base.tiny import IN_GGUF
from tests.gguf.tiny_gguf import BESIDE_TEXT, tiny_gguf


@pytest.mark.parametrize("arch", IN_GGUF)
def test_config_values_describe_the_model_that_was_written(tmp_path: Path, arch: str) -> None:
    path, model = tiny_gguf(arch, tmp_path / "m.gguf")
    given = model.config.get_text_config()
    config = settled(given)
    values = flattened(config_values(read_gguf(path)), type(config))
    assert values.pop("model_type") == config.model_type
    assert values.pop("bos_token_id") == 0
    told = {
        key: reduce(getattr, key.split("."), config) for key in values if hasattr(config, key.split(".")[0])
    }
    if "rope_parameters" in told:
        told["rope_parameters"] = given.rope_parameters  # with its sections, which nothing settled has
    different = {key: (values[key], value) for key, value in told.items() if value != values[key]}
    assert different == {}


@pytest.mark.parametrize("arch", IN_GGUF)
def test_every_tensor_has_its_parameter(tmp_path: Path, arch: str) -> None:
    tied = FAMILIES[arch].head == "tied"
    path, model = tiny_gguf(arch, tmp_path / "m.gguf", tie_word_embeddings=tied)
    kept = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    wanted = {name for name, _ in model.named_parameters()} | kept
    own = {name.replace("language_model.", "") for name in wanted if not BESIDE_TEXT.search(name)}
    assert set(parameter_names(read_gguf(path)).values()) == own


IN_ONE = {  # tensors that are one parameter in transformers
    *(("attn_k_b", "attn_v_b"), ("ffn_gate", "ffn_up"), ("ffn_gate_shexp", "ffn_up_shexp")),
    ("attn_gate", "attn_qkv"),
    ("ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v"),
}
OUTPUTS = (
    "mixer.out_proj",
    "mixer.o_proj",
    "attn.o_proj",
    "attn.out_proj",
    "attn.c_proj",
    "attn.dense",
    "attention.dense",
)


def test_jambas_layers_have_a_period(tmp_path: Path) -> None:
    changes = {"num_hidden_layers": 7, "attn_layer_period": 3, "expert_layer_period": 9}
    path, _ = tiny_gguf("jamba", tmp_path / "m.gguf", **changes)
    told = config_values(read_gguf(path))
    assert (told["attn_layer_period"], told["attn_layer_offset"]) == (3, 1)
    assert (told["expert_layer_period"], told["expert_layer_offset"]) == (6, 1)  # as seven layers say it
    file = read_gguf(path)
    more = {"blk.2.attn_q.weight": file.tensors["blk.1.attn_q.weight"]}
    with pytest.raises(ModelError, match=r"layers 1, 2, 4 have attn_q.*a period"):
        config_values(replace(file, tensors={**file.tensors, **more}))


def test_module_names_are_one_to_one() -> None:
    for arch in IN_GGUF:
        names = module_names(arch, 3)
        several = [
            tuple(tensor.rpartition(".")[2] for tensor in tensors)
            for tensors in tensor_names(arch, 3).values()
            if len(tensors) > 1 and not is_stack(tensors[0].removesuffix(".bias"))
        ]
        assert set(several) <= IN_ONE
        stacks = [tensors for tensors in tensor_names(arch, 3).values() if is_stack(tensors[0])]
        ends = [tuple(tensor.rpartition(".")[2] for tensor in tensors) for tensors in stacks]
        gate_and_up = (
            ("ffn_gate_up_exps",) if arch in ("gemma4moe", "mistral4") else ("ffn_gate_exps", "ffn_up_exps")
        )
        parts = [(stack,) for stack in STACKS] if arch == "dbrx" else [gate_and_up, ("ffn_down_exps",)]
        assert ends in ([], parts * 3)
        output = names.get("blk.2.attn_output") or names["blk.2.ssm_out"]
        assert ".2." in output and output.endswith(OUTPUTS)


@pytest.mark.parametrize("shape", [(24, 5), (24,)])
def test_unpermute_undoes_llama_cpps_order(shape: tuple[int, ...]) -> None:
    rows = np.arange(np.prod(shape)).reshape(shape)
    mixed = permute(rows, 3)
    assert not np.array_equal(mixed, rows)
    np.testing.assert_array_equal(unpermute(mixed, 3), rows)
    # within a head of 8 rows, llama.cpp puts row i beside row i + 4
    assert (permute(np.arange(8), 1) == [0, 4, 1, 5, 2, 6, 3, 7]).all()


def rope(tmp_path: Path, **keys: object) -> dict[str, object]:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys=dict(keys))
    return config_values(read_gguf(path))["rope_parameters"]


def test_linear_and_yarn_scaling(tmp_path: Path) -> None:
    kind, factor, original = (
        f"llama.rope.scaling.{key}" for key in ("type", "factor", "original_context_length")
    )
    assert rope(tmp_path, **{kind: "linear", factor: 4.0}) == {
        "rope_type": "linear",
        "rope_theta": 10_000.0,
        "factor": 4.0,
    }
    assert rope(tmp_path, **{kind: "yarn", factor: 4.0, original: 2048}) == {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
    }
    with pytest.raises(ModelError, match="'longrope'"):
        rope(tmp_path, **{kind: "longrope", factor: 4.0})


def test_llama3_scaling_is_recovered_from_the_tensor(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    wanted = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=131_072,
        rope_parameters=dict(wanted),
    )
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = 1.0 / 500_000.0 ** (np.arange(0, 16, 2) / 16)
    divisors = (plain / stretched.numpy()).astype(np.float32)
    keys = {"llama.rope.freq_base": 500_000.0, "rope_freqs.weight": divisors}
    found = rope(tmp_path, **keys)
    assert found.pop("rope_type") == wanted.pop("rope_type")
    assert found == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ModelError, match="rope_freqs"):
        rope(tmp_path, **(keys | {"rope_freqs.weight": divisors**2}))


def test_longrope_is_read_within_its_first_context(tmp_path: Path) -> None:
    short, long = np.linspace(1, 3, 8, dtype=np.float32), np.full(8, 2, np.float32)
    keys = {
        "rope_factors_short.weight": short,
        "rope_factors_long.weight": long,
        "minicpm3.rope.scaling.original_context_length": 4096,
    }
    path, _ = tiny_gguf("minicpm3", tmp_path / "m.gguf", keys=keys)
    found = config_values(read_gguf(path))["rope_parameters"]
    assert found["rope_type"] == "longrope" and found["long_factor"] == [2.0] * 8
    assert found["short_factor"] == pytest.approx(short.tolist(), rel=1e-6)
    keys["minicpm3.rope.scaling.original_context_length"] = 2048
    path, _ = tiny_gguf("minicpm3", tmp_path / "m.gguf", keys=keys)
    with pytest.raises(ModelError, match=r"'longrope'.*4096 tokens.*2048"):
        config_values(read_gguf(path))


def test_deepseeks_yarn_is_read_with_its_multiplier(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "deepseek2.rope.scaling.type": "yarn",
        "deepseek2.rope.scaling.factor": 4.0,
        "deepseek2.rope.scaling.original_context_length": 1024,
    }
    more = keys | {"deepseek2.rope.scaling.yarn_log_multiplier": 0.0707}
    path, _ = tiny_gguf("deepseek2", tmp_path / "m.gguf", keys=more)
    found = config_values(read_gguf(path))["rope_parameters"]
    assert found["mscale"] == found["mscale_all_dim"] == 0.707
    path, _ = tiny_gguf("deepseek2", tmp_path / "m.gguf", keys=keys)
    with pytest.raises(ModelError, match=r"'yarn'.*yarn_log_multiplier is missing"):
        config_values(read_gguf(path))


def test_gemmas_layers_by_flags_and_by_family(tmp_path: Path) -> None:
    pattern = "gemma3.attention.sliding_window_pattern"
    path, _ = tiny_gguf("gemma3", tmp_path / "m.gguf", keys={pattern: [False, True]})
    assert config_values(read_gguf(path))["layer_types"] == ["full_attention", "sliding_attention"]
    path, _ = tiny_gguf("gemma3", tmp_path / "m.gguf", keys={pattern: None})
    assert config_values(read_gguf(path))["layer_types"] == ["sliding_attention"] * 2  # every sixth is full
    path, _ = tiny_gguf("gemma3", tmp_path / "m.gguf", keys={pattern: [True, True, False]})
    with pytest.raises(ModelError, match="pattern"):
        config_values(read_gguf(path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "rwkv6"}, "'rwkv6' isn't supported"),
        ({"llama.expert_count": 8}, "expert_used_count is None"),
        ({"llama.block_count": None}, "block_count is None"),
        ({"llama.block_count": 0}, "block_count is 0"),
        ({"llama.nextn_predict_layers": 2}, "block_count is 2.*nextn_predict_layers is 2"),
        ({"llama.embedding_length": "64"}, "embedding_length is '64'"),
        ({"llama.rope.freq_base": -1.0}, "freq_base"),
        ({"llama.rope.dimension_count": 8}, "part of each head"),
        ({"llama.attention.value_length": 8}, "differ in size"),
        ({"general.type": "adapter"}, "LoRA adapter, not a model"),
        ({"split.count": 2, "split.no": 0}, "part 1 of 2.*llama-gguf-split --merge m.gguf"),
    ],
)
def test_configs_that_make_no_sense_are_refused(
    tmp_path: Path, keys: dict[str, object], message: str
) -> None:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys=keys)
    with pytest.raises(ModelError, match=message):
        config_values(read_gguf(path))


@pytest.mark.parametrize(
    ("arch", "keys", "message"),
    [
        ("glm4moe", {"expert_gating_func": 1}, "expert_gating_func is 1.*glm4_moe computes 2"),
        ("glm4moe", {"expert_weights_norm": 1}, "expert_weights_norm is 1.*true or false"),
        ("deepseek2", {"rope.dimension_count": 48}, "no part that isn't rotated"),
        ("deepseek2", {"expert_gating_func": 3}, "expert_gating_func is 3.*deepseek_v2 computes 1"),
        ("llama4", {"attention.sliding_window": 0}, "sliding_window is 0.*llama4_text computes None"),
        ("gpt-oss", {"attention.sliding_window_pattern": 3}, "sliding_window_pattern is 3.*computes 2"),
        ("mimo2", {"attention.head_count_kv": [2, 2, 2]}, r"head_count_kv is \[2, 2, 2\].*twice as many"),
        ("mimo2", {"attention.head_count_kv": [2, 4]}, "head_count_kv is .*each of 3 layers"),
        ("lfm2", {"attention.head_count_kv": [0, 2, 2]}, "head_count_kv is .*2 layers"),
        ("lfm2", {"attention.head_count_kv": [2, 4]}, "head_count_kv is .*one number of heads"),
        ("gpt2", {"attention.head_count_kv": 2}, "head_count_kv is 2.*gpt2 computes 4"),
        ("bloom", {"feed_forward_length": 64}, "feed_forward_length is 64.*bloom computes 256"),
        (
            "dbrx",
            {"attention.layer_norm_epsilon": 1e-3},
            r"layer_norm_epsilon is 0\.001.*dbrx computes 1e-05",
        ),
        ("chameleon", {"swin_norm": True}, "swin_norm is True.*chameleon computes False"),
        ("mpt", {"attention.max_alibi_bias": 4.0}, r"max_alibi_bias is 4\.0.*mpt computes 8\.0"),
        ("mistral3", {"rope.scaling.type": "none", "rope.scaling.factor": 1.0}, "'default' isn't supported"),
    ],
)
def test_values_that_transformers_computes_otherwise_are_refused(
    tmp_path: Path, arch: str, keys: dict[str, object], message: str
) -> None:
    own = {f"{arch}.{key}": value for key, value in keys.items()}
    path, _ = tiny_gguf(arch, tmp_path / "m.gguf", keys=own)
    with pytest.raises(ModelError, match=message):
        config_values(read_gguf(path))


@pytest.mark.parametrize("high", [4.0, 1.0])  # the second is Llama 4's
def test_a_scaling_of_another_length_than_metas_is_recovered(high: float, tmp_path: Path) -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": 256,
    }
    divisors = llama3_divisors(500_000.0, 16, **scaling).astype(np.float32)
    keys = {"llama.rope.freq_base": 500_000.0, "rope_freqs.weight": divisors}
    assert rope(tmp_path, **keys) == {"rope_type": "llama3", "rope_theta": 500_000.0, **scaling}


@pytest.mark.parametrize(("arch", "kind"), [("phi3", "yarn"), ("smollm3", "llama3")])
def test_a_scaling_that_the_family_isnt_computed_with_is_refused(
    arch: str, kind: str, tmp_path: Path
) -> None:
    keys: dict[str, object] = {
        f"{arch}.rope.scaling.type": "yarn",
        f"{arch}.rope.scaling.factor": 4.0,
        f"{arch}.rope.scaling.original_context_length": 1024,
    }
    if kind == "llama3":
        scaling: dict[str, Any] = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        divisors = llama3_divisors(2_000_000.0, 16, **scaling, original_max_position_embeddings=256)
        keys = {"rope_freqs.weight": divisors.astype(np.float32)}
    path, _ = tiny_gguf(arch, tmp_path / "m.gguf", keys=keys)
    with pytest.raises(ModelError, match=f"{kind}.*{arch} is computed with default"):
        config_values(read_gguf(path))


def test_a_model_that_llama_cpp_takes_for_another_is_refused(tmp_path: Path) -> None:
    layers: dict[str, Any] = {"num_hidden_layers": 64, "layer_types": ["full_attention"] * 64}
    path, _ = tiny_gguf("exaone4", tmp_path / "m.gguf", **layers)
    with pytest.raises(ModelError, match="64 layers have windows"):
        config_values(read_gguf(path))


def test_yarn_in_a_glm_file_is_read(tmp_path: Path) -> None:
    keys = {
        "glm4.rope.scaling.type": "yarn",
        "glm4.rope.scaling.factor": 4.0,
        "glm4.rope.scaling.original_context_length": 1024,
    }
    path, _ = tiny_gguf("glm4", tmp_path / "m.gguf", keys=keys)
    found = config_values(read_gguf(path))["rope_parameters"]
    assert found["rope_type"] == "yarn" and found["partial_rotary_factor"] == 0.5


def test_tensors_without_a_place_are_all_named(tmp_path: Path) -> None:
    extra = np.zeros(4, np.float32)
    path, _ = tiny_gguf(
        "llama", tmp_path / "m.gguf", keys={"blk.0.extra.weight": extra, "blk.7.attn_q.weight": extra}
    )
    with pytest.raises(ModelError) as caught:
        parameter_names(read_gguf(path))
    assert [problem.what for problem in caught.value.problems] == [
        "unexpected tensor blk.0.extra.weight",
        "unexpected tensor blk.7.attn_q.weight",
    ]


def test_experts_in_the_layout_of_old_files_are_one_fault(tmp_path: Path) -> None:
    extra = {f"blk.0.ffn_gate.{expert}.weight": np.zeros((4, 4), np.float32) for expert in range(4)}
    path, _ = tiny_gguf("mixtral", tmp_path / "m.gguf", keys=dict(extra))
    with pytest.raises(ModelError, match="tensors for single experts") as caught:
        parameter_names(read_gguf(path))
    assert len(caught.value.problems) == 1


def test_an_architecture_without_proof_is_refused_with_what_is_proven(tmp_path: Path) -> None:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys={"general.architecture": "rwkv6"})
    with pytest.raises(ModelError) as caught:
        config_values(read_gguf(path))
    problem = caught.value.problems[0]
    assert "no test here proves" in problem.why and "safetensors folder" in problem.mend
    names = problem.why.rpartition("proven: ")[2].split(", ")
    assert {"llama", "qwen3moe", "olmo2"} <= set(names) and len(names) == len(set(names))
    assert "mixtral" not in names  # a llama to files
