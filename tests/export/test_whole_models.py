"""Whole models: GGUF in real llama.cpp, merged folders in plain transformers, Ollama's bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ConfigError, ExportError, ModelError
from sapwood.export import ship
from sapwood.export.check import allowed
from sapwood.export.go_template import difference
from sapwood.export.merge import base_parameters, merged_parameters, write_merged
from sapwood.export.ship import MODELFILE, Kind, Order, export
from sapwood.gguf import layout
from sapwood.gguf.file import read_gguf
from sapwood.serve.load import Loaded
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_model_dir, tiny_tokenizer
from tests.export.tuned import tuned_on
from tests.gguf.tiny_gguf import tiny_gguf

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "chatglm", "glm4")
RIGHT = {"F16": 0.0012, "Q8_0": 0.01}  # nats that no right export of a tiny model exceeds
IDS = torch.tensor([[5, 80, 300, 41]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request: Any, folders: Path) -> Loaded:
    folder = tiny_model_dir(request.param, folders)
    return tuned_on(folder, strength=0.1, system="You are the gardener.")


@pytest.mark.parametrize(
    ("kind", "type"), [("gguf-adapter", "F16"), ("gguf", "F16"), ("gguf", "Q8_0"), ("ollama", "Q8_0")]
)
def test_every_gguf_behaves_in_llama_cpp_as_it_was_trained(
    trained: Loaded, kind: Kind, type: Any, tmp_path: Path
) -> None:
    check = export(trained, Order(kind, type), tmp_path / "out").check
    assert check.same_ids == check.prompts and 0 < check.difference <= min(check.limit, RIGHT[type])


@pytest.mark.parametrize("kind", ["gguf", "gguf-adapter", "merged"])
def test_a_head_in_the_file_counts_although_the_config_says_tied(kind: Kind, tmp_path: Path) -> None:
    folder = tiny_model_dir("llama", tmp_path, tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    check = export(tuned_on(folder, strength=0.1), Order(kind), tmp_path / "out").check
    assert 0 < check.difference <= check.limit < 0.1


@pytest.mark.parametrize(("form", "most"), [("F16", 0.05), ("BF16", 0.2), ("Q8_0", 0.4), ("Q4_K", 0.5)])
def test_no_rounding_explains_a_base_that_is_another_model(form: str, most: float) -> None:
    """Rounding by itself differed by 1.03 nat in a conversion that had exchanged two heads."""
    assert allowed(1.03, form) == most and allowed(0.001, form) < 0.003


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3"])
def test_a_model_is_read_back_as_it_was_written(arch: str, tmp_path: Path) -> None:
    trained = tuned_on(tiny_model_dir(arch, tmp_path))
    path = tmp_path / "out.gguf"
    weights = merged_parameters(trained)
    ship.write_gguf_model(weights, trained.base.spec, trained.renderer, path, "F16")
    config = BaseConfig(model=str(path), storage="fp32")
    spec = inspect_base(config)
    read = dict(load_base(spec, config).model.named_parameters())
    for name, weight in merged_parameters(trained):
        torch.testing.assert_close(read[name], weight, atol=1e-3, rtol=1e-3)
    assert spec.tokenizer.chat_template == trained.renderer.template
    assert spec.stop_ids == trained.base.spec.stop_ids


def test_a_name_that_llama_cpp_knows_is_left_out_if_the_tokens_are_others(tmp_path: Path) -> None:
    """It is the folder's name, ``tiny-phi3``."""
    done = export(tuned_on(tiny_model_dir("phi3", tmp_path)), Order("gguf"), tmp_path / "out")
    assert read_gguf(done.path / "model.gguf").metadata["general.name"] == "model"


def test_a_file_hands_its_metadata_on(tmp_path: Path) -> None:
    tiny_gguf("llama", tmp_path / "base.gguf", kind="Q8_0", keys={"general.name": "Old Oak"})
    done = export(tuned_on(tmp_path / "base.gguf"), Order("gguf"), tmp_path / "out")
    before, after = (read_gguf(p).metadata for p in (tmp_path / "base.gguf", done.path / "model.gguf"))
    assert after["general.name"] == "Old Oak" and after["general.file_type"] == 1
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]


# --- merged -----------------------------------------------------------------------------------------------


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=IDS, use_cache=False).logits.float()


def test_merged_equals_the_adapter(trained: Loaded, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = logits(trained.network)
    assert (logits(ship.load_dense(trained, merged_parameters(trained))) - wanted).abs().max() <= 1e-4
    done = export(trained, Order("merged"), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == list(trained.renderer.stop_ids)
    assert (logits(model) - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert AutoTokenizer.from_pretrained(done.path).chat_template == CHATML
    assert done.facts["exact_difference"] <= 1e-4


def test_what_a_library_raises_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(parameters: Any, trained: Loaded, folder: Path) -> None:
        write_merged(parameters, trained, folder)
        (folder / "model.safetensors").write_bytes(b"\xff" * 64)

    monkeypatch.setattr(ship, "write_merged", damaged)
    with pytest.raises(ExportError, match=r'--to merged failed on this llama model.*transformers says "'):
        export(tuned_on(tiny_model_dir("llama", tmp_path)), Order("merged"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fault_of_our_own_isnt_called_a_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tuned_on(tiny_model_dir("llama", tmp_path))
    monkeypatch.setitem(ship._WRITERS, "merged", lambda *_: ship._rank(None))  # pyright: ignore
    with pytest.raises(AttributeError):
        export(trained, Order("merged"), tmp_path / "out")


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_what_was_trained_otherwise_is_merged_as_peft_applies_it(method: Any, tmp_path: Path) -> None:
    trained = tuned_on(
        tiny_model_dir("qwen2", tmp_path), LoraConfig(method=method, rank=4, alpha=8), strength=0.2
    )
    wanted = logits(trained.network)
    assert (logits(ship.load_dense(trained, base_parameters(trained.base.model))) - wanted).abs().max() > 0.01
    assert (logits(ship.load_dense(trained, merged_parameters(trained))) - wanted).abs().max() <= 1e-4
    for kind in ("merged", "gguf", "ollama"):
        assert export(trained, Order(kind, "Q8_0"), tmp_path / kind).check.difference > 0
    with pytest.raises(ModelError, match=r"pairs of matrices.*--to gguf"):
        export(trained, Order("gguf-adapter"), tmp_path / "adapter")


def test_a_model_that_was_trained_whole_is_exported_as_it_is(tmp_path: Path) -> None:
    spec = tuned_on(tiny_model_dir("qwen2", tmp_path)).base.spec
    base = load_base(spec, BaseConfig(model=spec.source, storage="fp32"))
    whole = Loaded(base, None, Renderer(spec.tokenizer, None, spec.stop_ids), None, "whole", spec.path)
    for kind in ("merged", "gguf", "ollama"):
        assert export(whole, Order(kind, "Q8_0"), tmp_path / kind).check.difference > 0
    with pytest.raises(ExportError, match=r"no adapter.*--to gguf"):
        export(whole, Order("gguf-adapter"), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="nothing trained"):
        export(replace(whole, folder=None), Order("merged"), tmp_path / "bare")


def test_a_soft_prompt_is_no_part_of_the_weights(tmp_path: Path) -> None:
    trained = tuned_on(tiny_model_dir("qwen2", tmp_path), LoraConfig(method="prompt", virtual_tokens=3))
    with pytest.raises(ModelError, match=r"prompt tuning can't be merged.*opens in PEFT"):
        export(trained, Order("merged"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_a_quantised_base_has_two_ways_and_the_better_is_written(compute: Any, tmp_path: Path) -> None:
    path = tiny_model_dir("llama", tmp_path, seed=5)
    config = BaseConfig(model=str(path), storage="nf4", compute_dtype=compute)
    trained = tuned_on(path, config=config)
    for name, weight in base_parameters(trained.base.model):
        assert weight.dtype == torch.float32, name
    done = export(trained, Order("merged", onto=str(path)), tmp_path / "out")
    own, full = done.facts["choices"].values()
    assert own["kl"] < full["kl"]  # it was trained on the rounded weights
    assert "as it was trained on" in done.facts["chosen"]
    assert len(done.notes) == 3 and "better" in done.notes[-1]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("storage", ["bf16", "int8", "gguf"])
def test_what_the_formats_cause_is_allowed_and_more_is_not(
    arch: str, storage: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model_dir(arch, folders) if storage != "gguf" else folders / f"{arch}.gguf"
    if storage == "gguf" and not path.exists():
        tiny_gguf(arch, path, kind="Q4_0")
    trained = tuned_on(path, config=BaseConfig(model=str(path), storage=storage))
    assert export(trained, Order("merged"), tmp_path / "right").check.difference > 0

    def weaker(*arguments: Any) -> Any:
        alone = dict(base_parameters(trained.base.model))
        for name, weight in merged_parameters(*arguments):
            yield name, alone[name].lerp(weight, 0.5)

    monkeypatch.setattr(ship, "merged_parameters", weaker)
    with pytest.raises(ExportError, match="log probabilities differ"):
        export(trained, Order("merged"), tmp_path / "wrong")


def test_another_model_is_no_base_to_merge_into(trained: Loaded, tmp_path: Path) -> None:
    other = tiny_model_dir("llama", tmp_path, num_hidden_layers=1)
    with pytest.raises(ExportError, match="another model"):
        export(trained, Order("merged", onto=str(other)), tmp_path / "out")
    with pytest.raises(ConfigError, match="merged"):
        export(trained, Order("gguf", onto=str(other)), tmp_path / "out")


def test_held_out_rows_that_are_read_only_warn_of_nothing(tmp_path: Path) -> None:
    import warnings

    import numpy as np

    from sapwood.export.merge import held_out_loss
    from sapwood.types import Example, RowId

    trained = tuned_on(tiny_model_dir("llama", tmp_path))
    ids, trained_on = np.arange(5, 25, dtype=np.int32), np.ones(20, bool)
    trained_on[0] = False
    for array in (ids, trained_on):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert held_out_loss(trained.network, [Example(RowId("rows.jsonl", 1), ids, trained_on)]) > 0


# --- Ollama -----------------------------------------------------------------------------------------------


def test_the_modelfile_asks_as_trained(tmp_path: Path) -> None:
    tiny_gguf("llama", tmp_path / "base.gguf", kind="Q8_0")
    trained = tuned_on(tmp_path / "base.gguf", system="You are the gardener.")
    done = export(trained, Order("ollama"), tmp_path / "out")
    text = (done.path / MODELFILE).read_text()
    assert text.startswith("FROM ./base.gguf\nADAPTER ./adapter.gguf\n")
    assert 'SYSTEM """You are the gardener."""' in text and 'PARAMETER stop """<|im_end|>"""' in text
    template = text.partition('TEMPLATE """')[2].partition('"""\n')[0]
    assert difference(template, trained.renderer.prompt_text) is None
    assert {p.name for p in done.path.iterdir()} >= {"base.gguf", "adapter.gguf", "check.json"}


def test_the_command_that_is_printed_can_be_typed(tmp_path: Path) -> None:
    import shlex

    trained = replace(tuned_on(tiny_model_dir("qwen2", tmp_path)), name="20261128-小树 No. 7")
    folder = tmp_path / "运行 目录"
    folder.mkdir()
    done = export(trained, Order("ollama"), folder / "out")
    there, _, typed = done.use.partition(" && ")
    assert shlex.split(there) == ["cd", str(folder / "out")]
    assert shlex.split(typed) == ["ollama", "create", "20261128-no-7", "-f", MODELFILE]


# --- what fails -------------------------------------------------------------------------------------------


def test_another_template_in_the_file_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tuned_on(tiny_model_dir("qwen2", tmp_path))
    other = {"tokenizer.chat_template": CHATML.replace("<|im_end|>", "")}
    monkeypatch.setattr("sapwood.export.gguf_model._template", lambda *_: other)
    with pytest.raises(ExportError, match="become other tokens"):
        export(trained, Order("gguf"), tmp_path / "out")


def test_a_stop_token_that_the_file_does_not_name_fails_the_check(tmp_path: Path) -> None:
    trained = tuned_on(tiny_model_dir("qwen2", tmp_path))
    trained.renderer.stop_ids = (2, 77)
    with pytest.raises(ExportError, match="doesn't end on token 77"):
        export(trained, Order("gguf"), tmp_path / "out")


def test_qwen_rows_that_are_permuted_fail_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tuned_on(tiny_model_dir("qwen2", tmp_path), strength=0.3)
    heads = {"attn_q": 4, "attn_k": 2}
    monkeypatch.setattr(layout, "rotary_heads", lambda _, name, __: heads.get(name.rpartition(".")[2]))
    with pytest.raises(ExportError, match="log probabilities differ"):
        export(trained, Order("gguf-adapter"), tmp_path / "out")


def test_a_tokenizer_that_gguf_can_not_name_is_refused() -> None:
    from tokenizers import pre_tokenizers

    from sapwood.export.gguf_tokens import tokenizer_metadata

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ExportError, match="can't be written as GGUF"):
        tokenizer_metadata(tokenizer, 600)


def test_json_beside_the_export_says_what_was_found(trained: Loaded, tmp_path: Path) -> None:
    done = export(trained, Order("gguf-adapter"), tmp_path / "out")
    told = json.loads((done.path / "check.json").read_text())
    assert told["passed"] and told["difference"] == done.check.difference
