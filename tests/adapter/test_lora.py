"""Where an adapter goes, how it starts, and its folder: PEFT's own format, byte for byte reproducible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import read_adapter, write_adapter
from sapwood.adapter.model import adapter_tensors, restore_adapter
from sapwood.adapter.places.targets import resolve_targets
from sapwood.base.network.parts import is_linear
from sapwood.base.tiny import tiny_network
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ModelError
from tests.base.tiny import ARCHITECTURES, tiny_model
from tests.parity.cases import lora_model, tiny_base

LEAVES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
IDS = torch.arange(3, 23)[None]
ROOT = Path(__file__).parents[2]


# --- targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_of_the_decoder_and_never_the_head(arch: str, tied: bool) -> None:
    model = tiny_base(arch, tie_word_embeddings=tied).model
    fused = {"gate_proj", "up_proj"} if "glm" in arch else set[str]()  # GLM holds both in one matrix
    expected = sorted({*LEAVES} - fused | ({"gate_up_proj"} if fused else set()))
    assert resolve_targets(model, "all-linear") == tuple(expected)


@pytest.mark.parametrize(
    "arch", ["mamba", "falcon-mamba", "jamba", "mamba2", "falcon-h1", "bamba", "nemotron_h"]
)
def test_all_linear_is_what_a_model_calls(arch: str) -> None:
    """An adapter on a linear whose weight is read in another way would learn nothing."""
    model = tiny_model(arch)
    targets = resolve_targets(model, "all-linear")
    called: set[str] = set()
    wanted = {
        name for name, _ in model.named_modules() if name.endswith(tuple(f".{leaf}" for leaf in targets))
    }
    for name in wanted:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    model(input_ids=IDS, use_cache=False)
    assert called == wanted and not any("dt_proj" in name for name in wanted)


@pytest.mark.parametrize("targets", [("in_proj", "out_proj"), ("dt_proj",), r".*\.(in|dt)_proj"])
def test_a_linear_that_its_model_does_not_call_is_refused(targets: Any) -> None:
    odd = "out_proj" if "out_proj" in targets else "dt_proj"
    with pytest.raises(ConfigError, match=rf"lora\.targets names {odd}.*learns nothing: mamba doesn't call"):
        resolve_targets(tiny_model("mamba"), targets)


@pytest.mark.parametrize(
    ("kind", "idle"),
    [
        ("bart", "encoder_attn"),
        ("deepseek_v32", "indexer"),
        ("longcat_flash", "classifier"),
    ],
)
def test_what_no_text_reaches_is_left_out_and_refused_by_name(kind: str, idle: str) -> None:
    """An encoder's states and pictures aren't there; an indexer's choice of tokens has no gradient."""
    model = tiny_network(CONFIG_MAPPING[kind]())
    names = [name for name, module in model.named_modules() if is_linear(module)]
    targets = resolve_targets(model, "all-linear")
    adapted = [name for name in names if name.endswith(tuple(f".{target}" for target in targets))]
    assert adapted and len(adapted) < len(names)
    assert not any(idle in name for name in adapted)
    odd = next(name for name in names if idle in name)
    with pytest.raises(
        ConfigError, match=rf"names {odd.rpartition('.')[2]}.*learns nothing: {kind} doesn't call"
    ) as caught:
        resolve_targets(model, (odd, "q_prj"))
    assert len(caught.value.problems) == 2


def test_layers_for_pictures_in_a_decoder_are_not_there() -> None:
    model = tiny_network(CONFIG_MAPPING["git"]())
    assert not any("image_encoder" in name for name, module in model.named_modules() if is_linear(module))
    with pytest.raises(ConfigError, match="no linear layer is called"):
        resolve_targets(model, ("git.image_encoder.vision_model.encoder.layers.0.mlp.fc1",))


def test_layers_that_compress_blocks_of_many_tokens_are_reached() -> None:
    made: Any = CONFIG_MAPPING["deepseek_v4"]
    config = made(layer_types=["heavily_compressed_attention"] * 43)
    targets = resolve_targets(tiny_network(config), "all-linear")
    assert any("compressor.gate_proj" in name or name == "gate_proj" for name in targets)
    assert any("compressor.kv_proj" in name or name == "kv_proj" for name in targets)


def test_a_name_that_layers_without_text_have_too_means_the_others() -> None:
    model = tiny_network(CONFIG_MAPPING["bart"]())
    assert resolve_targets(model, ("q_proj",)) == tuple(
        f"model.decoder.layers.{i}.self_attn.q_proj" for i in range(model.config.decoder_layers)
    )


def test_a_list_is_checked_and_sorted() -> None:
    model = tiny_base().model
    assert resolve_targets(model, ("v_proj", "q_proj")) == ("q_proj", "v_proj")
    assert resolve_targets(model, ("0.self_attn.q_proj",)) == ("0.self_attn.q_proj",)


def test_every_wrong_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_targets(tiny_base().model, ("q_prj", "v_proj", "zzz", "lm_head"))
    assert [problem.what for problem in caught.value.problems] == [
        f"lora.targets: no linear layer is called {name!r}" for name in ("q_prj", "zzz", "lm_head")
    ]
    mends = [problem.mend for problem in caught.value.problems]
    assert mends[0] == "did you mean q_proj?"
    assert mends[1] == f"names here: {', '.join(LEAVES)}"


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets is empty"):
        resolve_targets(tiny_base().model, ())


def test_a_regular_expression_chooses_by_full_name() -> None:
    pattern = r"model\.layers\.1\.self_attn\.[qv]_proj"
    assert resolve_targets(tiny_base().model, pattern) == pattern
    model = attach_lora(tiny_base(), LoraConfig(targets=pattern))
    assert model.targets == ("q_proj", "v_proj")
    assert len(model.parameters) == 4
    assert all(".layers.1." in name for name in model.parameters)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("q_proj(", r"no regular expression · lora\.targets · .*position 6"),
        ("q_proj", r"matches no linear layer: 'q_proj' .* layers here: model\.layers\.0\.self_attn\.q_proj"),
        (r".*self_attn.*", r"more than linear layers.*model\.layers\.0\.self_attn is no linear"),
        (r".*(q_proj|lm_head)", r"more than linear layers.* · lm_head is no linear layer of the decoder"),
        (r".*(q_proj|embed_tokens)", r"more than linear layers.* · model\.embed_tokens is no linear"),
        (r".*", "the whole model is no linear"),
    ],
)
def test_regular_expressions_that_do_not_fit_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attach_lora(tiny_base(), LoraConfig(targets=pattern))


# --- the start --------------------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing() -> None:
    with torch.no_grad():
        expected = tiny_base().model(input_ids=IDS).logits
        found = attach_lora(tiny_base(), LoraConfig()).peft(input_ids=IDS).logits
    assert torch.equal(found, expected)


def test_only_the_adapter_is_trained_and_its_facts_are_at_hand() -> None:
    model = attach_lora(tiny_base(), LoraConfig(rank=3), seed=9)
    assert model.targets == LEAVES
    assert model.device == "cpu"
    assert model.clock.seed == 9
    assert len(model.parameters) == 2 * 2 * len(LEAVES)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters.values())
    assert sum(p.requires_grad for p in model.peft.parameters()) == len(model.parameters)
    assert not model.peft.training


def test_the_start_is_a_function_of_the_seed_and_moves_no_generator() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (adapter_tensors(attach_lora(tiny_base(), LoraConfig(), seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


# --- the folder -------------------------------------------------------------------------------------------


def test_a_written_adapter_reads_back_exactly(tmp_path: Path) -> None:
    model = lora_model()
    write_adapter(model, tmp_path / "deep" / "adapter")
    settings, tensors = read_adapter(tmp_path / "deep" / "adapter")
    assert settings["r"] == 4 and settings["lora_alpha"] == 8
    assert settings["target_modules"] == list(LEAVES)
    assert settings["base_model_name_or_path"] == "tiny"
    assert settings["inference_mode"] is True
    assert "peft_version" not in settings
    other = attach_lora(tiny_base(), LoraConfig(rank=4, alpha=8))
    restore_adapter(other, tensors, tmp_path)
    assert other.parameters.keys() == model.parameters.keys()
    assert all(torch.equal(other.parameters[n], p) for n, p in model.parameters.items())


@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize("targets", ["all-linear", ("v_proj", "q_proj"), r".*\.0\..*(k|up)_proj"])
def test_plain_peft_reads_it_and_answers_as_we_do(method: Any, targets: Any, tmp_path: Path) -> None:
    model = attach_lora(tiny_base(), LoraConfig(method=method, targets=targets, rank=4, dropout=0.1), seed=3)
    for name, parameter in model.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    write_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(tiny_base().model, tmp_path)
    with torch.no_grad():
        expected = model.peft(input_ids=IDS).logits
        found = theirs(input_ids=IDS).logits
        base = tiny_base().model(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, base, atol=1e-3)


WRITE = """
import sys
from pathlib import Path
from sapwood.base.network.parts import is_linear
from sapwood.base.tiny import tiny_network
from sapwood.config.sections import LoraConfig
from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import write_adapter
from tests.parity.cases import tiny_base
write_adapter(attach_lora(tiny_base(), LoraConfig(rank=2), seed=4), Path(sys.argv[1]))
"""


def test_the_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """PEFT keeps target modules in a set, whose order follows the seed of the process."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # without one, this process drew its own
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "there")], env=environment, check=True)
    write_adapter(attach_lora(tiny_base(), LoraConfig(rank=2), seed=4), tmp_path / "here")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def _poison(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.flatten()[0] = torch.nan
    return tensor


SPOIL: dict[str, Callable[[dict[str, Tensor], str], object]] = {
    "missing": lambda t, name: t.pop(name),
    r"\[1, 2\]; the model has \[4, 64\]": lambda t, name: t.update({name: torch.zeros(1, 2)}),
    "not finite": lambda t, name: t.update({name: _poison(t[name])}),
    "not part of this model": lambda t, name: t.update({f"{name}.extra": torch.zeros(1)}),
}


@pytest.mark.parametrize("fault", SPOIL)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_copied(fault: str) -> None:
    model, saved = lora_model(), adapter_tensors(lora_model())
    before = {name: p.detach().clone() for name, p in model.parameters.items()}
    tensors = {name: tensor + 1 for name, tensor in saved.items()}
    SPOIL[fault](tensors, next(name for name in tensors if "lora_A" in name))
    with pytest.raises(ModelError, match=f"adapter tensor .*lora_A.* is {fault} · somewhere") as caught:
        restore_adapter(model, tensors, Path("somewhere"))
    assert len(caught.value.problems) == 1
    assert all(torch.equal(p, before[name]) for name, p in model.parameters.items())


def test_every_misfit_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        restore_adapter(lora_model(), {}, Path("empty"))
    assert len(caught.value.problems) == len(lora_model().parameters)
    assert "more" in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_adapter(lora_model(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"no {name}"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "adapter type None"),
        (b'{"peft_type": "BOFT"}', "adapter type 'BOFT' .* known here: LORA"),
    ],
)
def test_a_config_that_is_not_a_lora_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    write_adapter(lora_model(), tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_adapter(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    write_adapter(lora_model(), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match="adapter weights can't be read"):
        read_adapter(tmp_path)


def test_the_file_holds_fp32_under_pefts_names(tmp_path: Path) -> None:
    write_adapter(lora_model(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    save_file(tensors, tmp_path / "again.safetensors", metadata={"format": "pt"})
    again = (tmp_path / "again.safetensors").read_bytes()
    assert again == (tmp_path / "adapter_model.safetensors").read_bytes()
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert list(settings) == sorted(settings)
    assert (settings["task_type"], settings["inference_mode"]) == ("CAUSAL_LM", True)
