"""The GGUF adapter in real llama.cpp; and that each of the format's traps is noticed by the check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model

from sapwood.adapter.model import LoraModel
from sapwood.adapter.pairs import lora_pairs
from sapwood.compute.backend import REFERENCE
from sapwood.config.sections import LoraConfig
from sapwood.errors import ConfigError, ExportError, StorageError
from sapwood.export import gguf_adapter
from sapwood.export.check import LIMIT
from sapwood.export.gguf_adapter import gguf_pairs
from sapwood.export.ship import CHECK, Order, export
from sapwood.gguf import layout
from sapwood.gguf.file import read_gguf
from sapwood.gguf.layout import unpermute
from sapwood.run.files import verify_dir
from sapwood.serve.load import Loaded
from tests.base.tiny import tiny_model
from tests.export.tuned import fill, tuned_on
from tests.gguf.tiny_gguf import tiny_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    tiny_gguf("llama", path, kind="Q8_0")
    return tuned_on(path, LoraConfig(rank=4, alpha=8, method="rslora"), strength=0.3)


def refused(trained: Loaded, folder: Path) -> ExportError:
    with pytest.raises(ExportError) as caught:
        export(trained, Order("gguf-adapter"), folder)
    assert not list(folder.parent.iterdir())  # neither published nor left behind
    assert caught.value.exit_code == 8
    return caught.value


def test_it_behaves_in_llama_cpp_as_it_was_trained(llama: Loaded, tmp_path: Path) -> None:
    done = export(llama, Order("gguf-adapter"), tmp_path / "out")
    verify_dir(done.path)
    told = json.loads((done.path / CHECK).read_text())
    assert told["passed"] and told["same_ids"] == told["prompts"] == 8 and not told["stop_flips"]
    assert 0 < told["difference"] <= told["limit"] == LIMIT * told["format_difference"]
    assert told["stops"] == {"2": True}
    assert "adapter.gguf" in done.use and str(done.path) in done.use
    with pytest.raises(StorageError, match="exists already"):
        export(llama, Order("gguf-adapter"), tmp_path / "out")


def test_rows_that_are_not_permuted_fail_the_check(
    llama: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "rotary_heads", lambda *_: None)
    assert "log probabilities differ" in str(refused(llama, tmp_path / "out"))


def test_a_scale_as_llama_cpps_own_converter_writes_it_fails_the_check(
    llama: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(pairs: Sequence[Any], config: Any) -> Any:
        return 8.0, gguf_pairs(pairs, config)[1]  # lora_alpha itself, where rsLoRA means alpha * sqrt(rank)

    monkeypatch.setattr(gguf_adapter, "gguf_pairs", misread)
    assert "log probabilities differ" in str(refused(llama, tmp_path / "out"))


def test_a_file_that_llama_cpp_refuses_is_an_error_in_its_words(
    llama: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_adapter, "architecture_of", lambda _: "qwen2")
    assert "llama.cpp can't run it" in str(refused(llama, tmp_path / "out"))


def test_ranks_and_alphas_of_their_own_are_folded_into_b() -> None:
    """By PEFT's own reading of rank_pattern and alpha_pattern: scale * B A is what each module adds."""
    network = tiny_model("llama")
    settings = PeftConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 20},
    )  # fmt: skip
    peft = get_peft_model(network, settings)
    fill(dict(peft.named_parameters()), 0.3)
    pairs = lora_pairs(LoraModel(peft, network, network, None, None, {}, (), REFERENCE))  # type: ignore[arg-type]
    alpha, written = gguf_pairs(pairs, network.config)
    assert len(written) == 4 and len({pair.scale for pair in pairs}) == 3
    for pair, tensor in zip(pairs, written, strict=True):
        rows = unpermute(tensor.b, 4) if "attn_q" in tensor.name else tensor.b
        wanted = peft.get_submodule(f"base_model.model.{pair.module}").get_delta_weight("default")
        found = (
            torch.from_numpy(np.ascontiguousarray(rows)) @ torch.from_numpy(tensor.a) * (alpha / pair.rank)
        )
        torch.testing.assert_close(found, wanted.detach(), atol=1e-6, rtol=1e-5)


def test_one_scale_leaves_the_bytes_of_b(llama: Loaded, tmp_path: Path) -> None:
    assert llama.model is not None
    gguf_adapter.write_gguf_adapter(llama, tmp_path / "a.gguf")
    file = read_gguf(tmp_path / "a.gguf")
    b = llama.model.parameters["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    np.testing.assert_array_equal(file.tensors["blk.0.ffn_up.weight.lora_b"].dense(), b.detach().numpy())
    assert file.metadata["adapter.lora.alpha"] == pytest.approx(8 * 2)  # sqrt(4)


def test_a_base_without_an_adapter_is_nothing_to_export(llama: Loaded, tmp_path: Path) -> None:
    bare = Loaded(llama.base, None, llama.renderer, None, "bare")
    with pytest.raises(ConfigError, match="nothing trained"):
        export(bare, Order("gguf-adapter"), tmp_path / "out")


def test_smollm2_itself(smollm2_spec: Any, tmp_path: Path) -> None:
    done = export(tuned_on("builtin:smollm2", strength=0.05), Order("gguf-adapter"), tmp_path / "out")
    assert done.check.difference <= done.check.limit
