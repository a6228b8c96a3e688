"""Every storage: its size, its choice, its fast path against PEFT's own, and its adapter in plain PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from sapwood.adapter.attach import attach_lora
from sapwood.adapter.files import write_adapter
from sapwood.adapter.model import LoraModel
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.base.storage import bnb_linear
from sapwood.base.storage.frozen import freeze
from sapwood.base.storage.storages import settle_storage, smaller_storages, unpacked_bytes, weight_bytes
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ConfigError
from sapwood.machine.device import CPU
from sapwood.types import Base, BaseSpec
from tests.base.tiny import tiny_llama
from tests.compute.test_linear import assert_same, by_peft, results, wake
from tests.gguf.tiny_gguf import tiny_gguf

IDS = torch.arange(3, 43)[None]
FORMS = [("nf4", True), ("nf4", False), ("fp4", True), ("int8", True)]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf("llama", tmp_path_factory.mktemp("base") / "m.gguf", kind="Q8_0")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def config(path: Path, storage: str, **keys: Any) -> BaseConfig:
    tree = {"model": str(path), "storage": storage, "compute_dtype": "fp32", **keys}
    return BaseConfig.model_validate(tree)


def load(path: Path, storage: str, **keys: Any) -> Base:
    given = config(path, storage, **keys)
    return load_base(inspect_base(given), given)


def adapted(path: Path, storage: str, **keys: Any) -> LoraModel:
    return wake(attach_lora(load(path, storage, **keys), LoraConfig(rank=4, dropout=0.0)))


def test_products_over_packed_weights_have_the_format_that_was_asked_for(folder: Path) -> None:
    found: dict[str, torch.Tensor] = {}
    for name, kind in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        network = load(folder, "nf4", compute_dtype=name).model
        seen: list[torch.dtype] = []
        network.model.layers[0].mlp.register_forward_hook(lambda _, x, y, seen=seen: seen.append(y.dtype))
        with torch.no_grad():
            found[name] = network(input_ids=IDS).logits.float()
        assert seen == [kind]
    torch.testing.assert_close(found["bf16"], found["fp32"], rtol=0.05, atol=0.1)
    assert not torch.equal(found["bf16"], found["fp32"])


# --- the fast path ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["fp32", "gguf", "nf4", "fp4", "int8"])
def test_forward_and_gradients_equal_pefts_in_every_storage(gguf_file: Path, storage: str) -> None:
    model = adapted(gguf_file, storage)
    model.peft.train()
    assert_same(results(model), results(by_peft(model)))


@pytest.mark.parametrize(("storage", "double"), FORMS)
def test_answering_in_between_changes_no_training(gguf_file: Path, storage: str, double: bool) -> None:
    model = adapted(gguf_file, storage, double_quant=double)
    model.peft.train()
    before = results(model)
    model.peft.eval()
    with torch.no_grad(), model.peft.disable_adapter():
        model.peft(input_ids=IDS, use_cache=False)
    model.peft.train()
    assert_same(results(model), before, tolerance=0)


@pytest.mark.parametrize("storage", ["gguf", "nf4", "int8"])
def test_the_dense_matrix_is_the_products(gguf_file: Path, storage: str) -> None:
    model = load(gguf_file, storage).model.train()
    module = model.model.layers[0].mlp.up_proj
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    weight = freeze(module)
    torch.testing.assert_close(weight.forward(x), x @ weight.dense().T, rtol=1e-4, atol=1e-5)


# --- bitsandbytes -----------------------------------------------------------------------------------------


def plain(folder: Path, storage: str, double: bool) -> Any:
    """What a user without sapwood loads."""
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": storage, "bnb_4bit_use_double_quant": double}
    settings = BitsAndBytesConfig(**({"load_in_8bit": True} if storage == "int8" else four))
    loader: Any = AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32, quantization_config=settings)


@pytest.mark.parametrize(("storage", "double"), FORMS)
def test_the_adapter_answers_in_plain_peft_and_bitsandbytes(
    folder: Path, tmp_path: Path, storage: str, double: bool
) -> None:
    model = adapted(folder, storage, double_quant=double)
    write_adapter(model, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(plain(folder, storage, double), str(tmp_path / "adapter"))
    # in eval mode bitsandbytes rounds the inputs of 4-bit products to bf16 on some processors
    mode = storage != "int8"
    with torch.no_grad():
        own = model.peft.train(mode)(input_ids=IDS, use_cache=False).logits
        torch.testing.assert_close(own, theirs.train(mode)(input_ids=IDS, use_cache=False).logits)


@pytest.mark.parametrize(("storage", "double"), FORMS)
def test_a_file_is_quantised_as_a_folder_is(folder: Path, tmp_path: Path, storage: str, double: bool) -> None:
    path, _ = tiny_gguf("llama", tmp_path / "m.gguf", attention_bias=True)
    dense = load(path, "fp32").model
    dense.save_pretrained(tmp_path / "folder")
    with torch.no_grad():
        own = load(path, storage, double_quant=double).model.train()(IDS).logits
        torch.testing.assert_close(own, plain(tmp_path / "folder", storage, double).train()(IDS).logits)


def test_without_the_library_the_error_says_what_to_install(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"bitsandbytes isn't installed.*pip install bitsandbytes"):
        bnb_linear.quantiser(config(gguf_file, "nf4"), torch.float32)


# --- size and choice --------------------------------------------------------------------------------------


def held(base: Base) -> int:
    """Bytes of every tensor that the base's weights are made of."""
    sizes = {p.data_ptr(): p.nbytes for p in base.model.parameters()}
    for module in base.model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        tensors = [] if state is None else [state.absmax, getattr(state.state2, "absmax", None)]
        tensors.append(getattr(getattr(module, "state", None), "SCB", None))
        sizes |= {t.data_ptr(): t.nbytes for t in tensors if t is not None}
    return sum(sizes.values())


@pytest.mark.parametrize("storage", ["fp32", "bf16", "fp16", "gguf", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("double", [True, False])
def test_the_predicted_size_is_what_is_held(gguf_file: Path, storage: str, double: bool) -> None:
    given = config(gguf_file, storage, double_quant=double)
    if storage in ("fp32", "bf16", "fp16"):
        given = given.model_copy(update={"compute_dtype": "auto"})
    spec = inspect_base(given)
    assert weight_bytes(spec, given) == pytest.approx(held(load_base(spec, given)), rel=0.01)
    assert (unpacked_bytes(spec, given) > 0) == (storage in ("gguf", "nf4", "fp4", "int8"))


def choice(path: Path, free: int) -> str:
    given = config(path, "auto")
    return settle_storage(inspect_base(given), given, CPU, free=free).storage


def test_auto_takes_the_fastest_that_fits(gguf_file: Path, folder: Path) -> None:
    spec: BaseSpec = inspect_base(config(gguf_file, "auto"))
    dense = weight_bytes(spec, config(gguf_file, "fp32"))
    assert choice(gguf_file, 2 * dense) == "fp32"
    assert choice(gguf_file, dense) == "gguf"
    assert choice(folder, 100) == "nf4"  # the last one is tried, whatever is free
    smaller = smaller_storages(spec, config(gguf_file, "fp32"), CPU)
    assert smaller == ["bf16", "gguf"]


def test_a_storage_that_was_named_stays_with_the_format_of_its_products(gguf_file: Path) -> None:
    given = config(gguf_file, "gguf").model_copy(update={"compute_dtype": "auto"})
    found = settle_storage(inspect_base(given), given, CPU)
    assert found.storage == "gguf"
    assert found.compute_dtype in ("fp32", "bf16")  # measured once, written into the run
