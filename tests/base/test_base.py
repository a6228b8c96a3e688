from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from sapwood.base import load as load_module
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.network.head import regrown
from sapwood.config.sections import BaseConfig
from sapwood.errors import ModelError
from sapwood.machine import measure
from sapwood.machine.device import CPU
from sapwood.machine.doing import told_to
from sapwood.types import Base, BaseSpec
from tests.base.tiny import ARCHITECTURES, tiny_llama, tiny_model, tiny_model_dir
from tests.gguf.tiny_gguf import tiny_gguf
from tests.shell import python


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))


def inspect(path: Path) -> BaseSpec:
    return inspect_base(BaseConfig(model=str(path)))


def load(path: Path, storage: str = "fp32") -> Base:
    return load_base(inspect(path), BaseConfig(model=str(path), storage=storage))


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_loading_says_how_far_it_is(kind: str, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path) if kind == "folder" else tiny_gguf("llama", tmp_path / "m.gguf")[0]
    spec, said = inspect(path), list[str]()
    with told_to(said.append):
        load_base(spec, BaseConfig(model=str(path), storage="fp32"))
    counts = [match for text in said if (match := re.fullmatch(r"loading .* (\d+)/(\d+)", text))]
    assert counts and counts[-1][1] == counts[-1][2], said
    assert said[-2:] == ["", ""]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def same(ours: Any, theirs: Any, ids: torch.Tensor) -> None:
    """Equal parameters, buffers and logits."""
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-6)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


IDS = torch.arange(3, 103)[None]  # longer than the sliding window of the tiny Gemmas


# --- folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_folder_loads_as_transformers_loads_it(tmp_path: Path, arch: str) -> None:
    path = tiny_model_dir(arch, tmp_path)
    base = load(path)
    same(base.model, AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), IDS)
    assert base.storage == "fp32"
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.spec.stop_ids == (2,)
    text = "Hello 123 你好 zebra"
    assert base.spec.tokenizer(text).input_ids == AutoTokenizer.from_pretrained(path)(text).input_ids


def test_llama_2_s_pretraining_tp_changes_nothing(tmp_path: Path) -> None:
    """Tutorials set it to 1; its checkpoints ask for products in slices, which are slower and round
    otherwise."""
    path = tiny_llama(tmp_path)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        whole = load(path).model(ids).logits
        edit(path / "config.json", lambda config: config.update(pretraining_tp=2))
        assert torch.equal(load(path).model(ids).logits, whole)


def test_a_tied_head_is_the_embedding_itself(tmp_path: Path) -> None:
    tied = load(tiny_llama(tmp_path / "tied"))
    assert tied.head.weight is tied.model.get_input_embeddings().weight
    untied = load(tiny_llama(tmp_path / "untied", tie_word_embeddings=False))
    assert untied.head.weight is untied.model.lm_head.weight
    assert untied.head.weight is not untied.model.get_input_embeddings().weight


def test_storages(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path)
    for storage, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        base = load(path, storage)
        assert base.storage == storage
        assert {parameter.dtype for parameter in base.model.parameters()} == {dtype}
    assert load(path, "auto").head.weight.dtype == measure.torch_dtype(measure.machine_facts(CPU)["dtype"])


def test_the_fingerprint_follows_weights_and_config(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path)
    first = inspect(path).fingerprint
    assert inspect(path).fingerprint == first
    assert inspect(tiny_llama(tmp_path / "again")).fingerprint == first
    assert inspect(tiny_llama(tmp_path / "other", seed=1)).fingerprint != first
    edit(path / "config.json", lambda config: config.update(rms_norm_eps=1e-5))
    assert inspect(path).fingerprint != first


def test_stop_ids_come_from_every_place_once(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path)
    edit(path / "generation_config.json", lambda config: config.update(eos_token_id=[7, 2]))
    edit(path / "config.json", lambda config: config.update(eos_token_id=9))
    assert inspect(path).stop_ids == (7, 2, 9)
    (path / "generation_config.json").unlink()
    assert inspect(path).stop_ids == (9, 2)


def test_tokenizer_json_is_taken_as_it_stands(tmp_path: Path) -> None:
    """AutoTokenizer would build Qwen2's own pre-tokenizer here."""
    path = tiny_model_dir("qwen2", tmp_path)
    edit(
        path / "tokenizer.json",
        lambda t: t.update(
            pre_tokenizer={
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            }
        ),
    )
    tokenizer = inspect(path).tokenizer
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1234")
    assert [word for word, _ in words] == ["in", "Ġ1234"]


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"no usable tokenizer.*expected tokenizer.json"):
        inspect(path)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="no usable tokenizer"):
        inspect(path)


def test_an_added_token_without_a_row_is_told_and_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Gemma 3's folders have one for pictures."""
    from tests.base.tiny import tiny_tokenizer

    path = tiny_model_dir("gemma3", tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(path)
    spec = inspect_base(BaseConfig(model=str(path)))
    assert len(spec.tokenizer) == spec.hf_config.vocab_size + 1
    assert "'<image_soft_token>' has the id 600, the embedding has 600 rows" in caplog.text


def test_a_sentencepiece_file_alone_names_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    (path / "tokenizer.model").write_bytes(b"a sentencepiece model")
    monkeypatch.setattr("sapwood.base.tokenizer._installed", lambda name: name != "sentencepiece")
    with pytest.raises(ModelError, match=r"sentencepiece isn't installed.*pip install") as caught:
        inspect_base(BaseConfig(model=str(path)))
    assert "tiktoken" not in str(caught.value)


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path, vocab_size=599)
    with pytest.raises(ModelError, match=r"the id 599, the embedding has 599 rows"):
        inspect(path)
    assert inspect(tiny_llama(tmp_path / "padded", vocab_size=640)).hf_config.vocab_size == 640


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_oak.OakModel"}),
            "auto_map names OakModel",
        ),
        (
            lambda c: c.update(auto_map={"AutoModelForCausalLM": "o.OakModel"}, model_type="oak"),
            "code of its own",
        ),
        (lambda c: c.update(model_type="oak"), "model_type 'oak' isn't supported"),
        (lambda c: c.pop("model_type"), "model_type None isn't supported"),
        (lambda c: c.update(model_type="t5"), "model_type 't5'"),
        (lambda c: c.update(is_encoder_decoder=True), "an encoder with a decoder"),
        (lambda c: c.update(quantization_config={"quant_method": "gptq"}), "stored as gptq"),
        (lambda c: c.update(num_hidden_layers=3), "config doesn't fit the weights"),
        (lambda c: c.update(num_hidden_layers=10**9), "1,000,000,000 layers"),
        (lambda c: c.update(hidden_size=10**9), "config"),
        (lambda c: c.update(hidden_size="wide"), "config.json isn't valid|no model that can be built"),
    ],
)
def test_configs_that_cannot_be_trusted_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tiny_llama(tmp_path)
    edit(path / "config.json", change)
    with pytest.raises(ModelError, match=message) as caught:
        inspect(path)
    assert "config.json" in str(caught.value)


def test_an_auto_map_that_names_transformers_own_class_is_harmless(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path)
    edit(path / "config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "m.LlamaForCausalLM"}))
    (path / "m.py").write_text("raise SystemExit('ran')")
    assert load(path).storage == "fp32"


def test_missing_unexpected_and_misshapen_tensors_are_all_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_llama(tmp_path)
    weights = load_file(path / "model.safetensors")
    lost, bent = "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
    weights["model.extra.weight"] = weights.pop(lost).clone()
    weights[bent] = weights[bent].T.contiguous()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load(path)
    whats = [problem.what for problem in caught.value.problems]
    assert whats == [
        f"tensor {lost} is missing",
        "unexpected tensor model.extra.weight",
        f"tensor {bent} has another shape",
    ]
    assert "[64, 128]" in str(caught.value)
    assert "[128, 64]" in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_llama(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][3] = torch.inf
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="aren't finite"):
        load(path)


def test_dropout_of_a_base_is_off_and_said(tmp_path: Path) -> None:
    spec = inspect(tiny_llama(tmp_path, attention_dropout=0.1))
    (note,) = [note for note in spec.notes if "dropout" in note]
    assert note == "attention_dropout of the base set to 0: a frozen base computes as in inference"
    assert load_base(spec, BaseConfig(storage="fp32")).model.config.attention_dropout == 0.0


def test_a_rotary_base_that_transformers_passes_over_is_taken_and_said(tmp_path: Path) -> None:
    path = tiny_model_dir("dbrx", tmp_path)
    without_rope(path, lambda config: config["attn_config"].update(rope_theta=500_000.0))
    spec = inspect(path)
    assert spec.notes == ("attn_config.rope_theta 500,000, which transformers passes over, is taken",)
    base = load_base(spec, BaseConfig(storage="fp32")).model
    frequencies = next(buffer for name, buffer in base.named_buffers() if name.endswith("inv_freq"))
    assert float(frequencies[1]) == pytest.approx(500_000 ** (-1 / len(frequencies)))


def test_a_rotary_base_that_is_meant_for_no_layer_is_refused(tmp_path: Path) -> None:
    path = tiny_model_dir("cwm", tmp_path)
    without_rope(path, lambda config: config.update(rope_theta=77_000.0))
    with pytest.raises(ModelError, match=r"rope_theta 77000.* is passed over .* cwm with 1,000,000"):
        inspect(path)
    without_rope(path, lambda config: config.update(rope_theta=1_000_000))
    assert inspect(path).notes == ()


def without_rope(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write config.json as older programs do, and change it."""
    config = json.loads((path / "config.json").read_text())
    config.pop("rope_parameters", None)
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def test_too_little_memory_is_found_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = inspect(tiny_llama(tmp_path))
    monkeypatch.setattr(load_module, "available_memory", lambda: 100_000)
    with pytest.raises(ModelError, match=r"not enough memory.*take 0.0 GB in fp32"):
        load_base(spec, BaseConfig(storage="fp32"))


# --- the head ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "scale", "cap"),
    [
        (transformers.GraniteConfig(logits_scaling=8.0), 1 / 8, None),
        (transformers.CohereConfig(logit_scale=0.25), 0.25, None),
        (transformers.Gemma2Config(final_logit_softcapping=3.0, head_dim=16), 1.0, 3.0),
    ],
)
def test_head_factors_reproduce_the_models_logits(
    tmp_path: Path, config: Any, scale: float, cap: float | None
) -> None:
    values = config.to_dict() | {
        "vocab_size": 600,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 0,
        "layer_types": None,
    }
    model = AutoModelForCausalLM.from_config(type(config)(**values))
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    path = tiny_llama(tmp_path)  # for its tokenizer
    (path / "model.safetensors").unlink()
    model.save_pretrained(path)
    base = load(path)
    assert base.head.scale == pytest.approx(scale)
    assert base.head.softcap == cap
    with torch.no_grad():
        hidden = base.model.base_model(IDS).last_hidden_state
        logits = hidden @ base.head.weight.T
        logits = cap * torch.tanh(logits / cap) if cap else logits
        torch.testing.assert_close(logits * base.head.scale, base.model(IDS).logits)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda z: z * 2, (2.0, None)),
        (lambda z: z / 16, (1 / 16, None)),
        (lambda z: 128 * torch.tanh(z / 128), (1.0, 128.0)),
        (lambda z: 16 * torch.tanh(z * 0.19 / 16), (0.19, 16 / 0.19)),  # the factor first, as MuseSpark
        (lambda z: 13.3 * torch.tanh(z / 13.3) * 0.19, (0.19, 13.3)),
        (lambda z: z.abs(), None),
    ],
)
def test_what_a_network_does_to_its_logits_is_asked_or_refused(
    change: Any, found: tuple[float, float | None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the numbers are its config's: 2, 16 and 128. 0.19 and 13.3 aren't near any of them."""
    path = tiny_llama(tmp_path)
    spec = inspect(path)
    original = transformers.LlamaForCausalLM.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = original(self, *args, **kwargs)
        out.logits = change(out.logits)
        return out

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", changed)
    if found is None:
        with pytest.raises(ModelError, match="the head of llama models isn't supported"):
            load_base(spec, BaseConfig(storage="fp32"))
        return
    head = load_base(spec, BaseConfig(storage="fp32")).head
    scale, softcap = found
    assert head.scale == pytest.approx(scale, rel=1e-5)
    assert head.softcap == (softcap and pytest.approx(softcap, rel=1e-5))


# --- GGUF -------------------------------------------------------------------------------------------------


def test_a_head_never_says_tokens_that_its_model_never_says(tmp_path: Path) -> None:
    """Chameleon's of pictures. Rows that are added later are said."""
    base, never = load(tiny_model_dir("chameleon", tmp_path), "fp32"), slice(4, 8196)
    ids = torch.tensor([[0, 8200, 8300, 2]])
    with torch.no_grad():
        hidden = base.backbone(input_ids=ids, use_cache=False).last_hidden_state
        found = torch.log_softmax(hidden @ base.head.weight.T + base.head.bias, -1)
        wanted = torch.log_softmax(base.model(input_ids=ids).logits, -1)
        base.model.resize_token_embeddings(wanted.shape[-1] + 3)
    torch.testing.assert_close(found[..., 8196:], wanted[..., 8196:])
    assert found[..., never].exp().max() == wanted[..., never].exp().max() == 0
    bias = regrown(base.head, base.model).bias
    assert bias is not None and base.head.bias is not None
    assert torch.equal(bias[:-3], base.head.bias) and not bias[-3:].any()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_gguf_file_gives_the_model_that_was_written(tmp_path: Path, arch: str) -> None:
    path, model = tiny_gguf(arch, tmp_path / "m.gguf")
    base = load(path)
    same(base.model, model, IDS)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.head.weight is base.model.get_input_embeddings().weight
    assert base.spec.stop_ids == (2,)
    assert base.spec.tokenizer.chat_template
    assert base.spec.tokenizer.pad_token_id == 0


def test_an_untied_gguf_head_has_its_own_weights(tmp_path: Path) -> None:
    path, model = tiny_gguf("llama", tmp_path / "m.gguf", tie_word_embeddings=False)
    base = load(path)
    same(base.model, model, IDS)
    assert base.head.weight is not base.model.get_input_embeddings().weight


def test_biases_of_llama_files_are_mapped(tmp_path: Path) -> None:
    path, model = tiny_gguf("llama", tmp_path / "m.gguf", attention_bias=True)
    same(load(path).model, model, IDS)


def test_packed_weights_are_unpacked_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf.quants import quantize

    from gguf import GGMLQuantizationType, dequantize
    from sapwood.base import gguf_weights

    monkeypatch.setattr(gguf_weights, "CHUNK_ELEMENTS", 1000)
    path, model = tiny_gguf("gemma2", tmp_path / "m.gguf", kind="Q8_0")
    kind = GGMLQuantizationType.Q8_0
    for parameter in model.parameters():
        if parameter.dim() > 1:
            rounded = dequantize(quantize(parameter.detach().numpy(), kind), kind)
            parameter.data = torch.from_numpy(rounded)
    same(load(path).model, model, IDS)
    assert {p.dtype for p in load(path, "bf16").model.parameters()} == {torch.bfloat16}


def test_gguf_tensors_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    path, _ = tiny_gguf(
        "llama", tmp_path / "m.gguf", keys={"llama.block_count": 3, "llama.feed_forward_length": 96}
    )
    with pytest.raises(ModelError) as caught:
        load(path)
    whats = [problem.what for problem in caught.value.problems]
    assert "tensor model.layers.2.mlp.up_proj.weight is missing" in whats
    assert "tensor blk.0.ffn_up.weight has another shape" in whats
    assert len(whats) == 9 + 6


def test_gguf_configs_are_bounded_by_the_file(tmp_path: Path) -> None:
    for key, value in (
        ("block_count", 10**8),
        ("embedding_length", 10**8),
        ("feed_forward_length", 2**31 - 1),
    ):
        path, _ = tiny_gguf("llama", tmp_path / "m.gguf", keys={f"llama.{key}": value})
        with pytest.raises(ModelError, match=r"m\.gguf"):
            load(path)


# --- the real one -----------------------------------------------------------------------------------------


def test_smollm2_knows_the_capital_of_france(smollm2_spec: BaseSpec) -> None:
    assert smollm2_spec.stop_ids == (2,)
    assert smollm2_spec.hf_config.rope_parameters == {"rope_type": "default", "rope_theta": 100_000.0}
    base = load_base(smollm2_spec, BaseConfig(storage="fp32"))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = smollm2_spec.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    out = base.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert "Paris" in smollm2_spec.tokenizer.decode(out[0, len(ids) :])


def test_importing_loads_neither_torch_nor_transformers() -> None:
    check = (
        "import sys, sapwood.base.inspect; assert not {'torch', 'transformers', 'gguf'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


COMPILED = """
import sys, peft, torch
from bitsandbytes.backends.default import ops
print("torch._inductor.compile_fx" in sys.modules, torch.compile.__module__)
from sapwood.base.later import _compiling_later
asked = []
later = _compiling_later(lambda function, **options: asked.append(options) or function)(abs, dynamic=True)
print(len(asked), later(-3), later(-4), asked)
"""


def test_torchs_compiler_is_imported_when_something_is_compiled_and_not_with_peft(tmp_path: Path) -> None:
    done = python(COMPILED, cwd=tmp_path)
    assert done.stdout == "False torch\n0 3 4 [{'dynamic': True}]\n", done.stderr


def test_the_tiny_models_answer_differently_to_different_seeds() -> None:
    with torch.no_grad():
        assert not torch.allclose(tiny_model(seed=0)(IDS).logits, tiny_model(seed=1)(IDS).logits)
