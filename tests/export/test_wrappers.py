"""The language model in a model for pictures, exported: with the parts beside it, or by itself in GGUF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sapwood.adapter.elsewhere.gguf import from_gguf
from sapwood.adapter.pairs import lora_pairs
from sapwood.config.sections import BaseConfig
from sapwood.errors import ExportError
from sapwood.export.gguf_adapter import write_gguf_adapter
from sapwood.export.ship import Kind, Order, export
from sapwood.gguf.file import read_gguf
from sapwood.serve.load import Loaded
from tests.base.tiny import PICTURES, SECTIONS, tiny_model_dir
from tests.base.wrappers import tiny_wrapper
from tests.export.tuned import tuned_on
from tests.gguf.tiny_gguf import tiny_gguf

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
TWO_WIDTHS = {
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 0,
}
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
HALF_TURNED = {key: value for key, value in TEXT.items() if key != "head_dim"} | {
    "num_hidden_layers": 2,
    "rope_parameters": ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
}
FEW_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 32}
PICTURES_OF_GLM = {"depth": 1, "num_heads": 2} | dict.fromkeys(("hidden_size", "intermediate_size"), 32)
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {  # of each: what llama.cpp calls it, changes for text
    "gemma3": ("gemma3", TEXT | {"num_hidden_layers": 2, "sliding_window": 32, "query_pre_attn_scalar": 16}),
    "gemma4": ("gemma4", TEXT | TWO_WIDTHS),
    "gemma4_unified": ("gemma4", TEXT | {k: v for k, v in TWO_WIDTHS.items() if "per_layer" not in k}),
    "glm4v": ("glm4", HALF_TURNED),
    "glm_ocr": ("glm4", HALF_TURNED | {"rope_parameters": ROPE | {"mrope_section": [3, 3, 2]}}),
    "glm4v_moe": ("glm4moe", HALF_TURNED | FEW_EXPERTS),
    "qwen3_5": ("qwen35", TEXT | {"num_hidden_layers": 4, "head_dim": 32}),
    "qwen3_vl": ("qwen3vl", TEXT | SECTIONS | {"num_hidden_layers": 2}),
}
RIGHT = {"F16": 0.0012, "BF16": 0.02}  # nats that no right export of a tiny model exceeds


@pytest.fixture(scope="module", params=WRAPPERS)
def wrapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Loaded]:
    """What llama.cpp calls the model, and the model with an adapter."""
    architecture, text = WRAPPERS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "base"
    pictures = {"gemma3": {}, "gemma4": {"vision_config": SMALL}, "gemma4_unified": {}}
    if request.param.startswith("glm"):
        pictures[request.param] = {"vision_config": PICTURES_OF_GLM | {"out_hidden_size": 64}}
    parts = pictures.get(request.param, {"vision_config": PICTURES["qwen3vl"]})
    tiny_wrapper(request.param, folder, text, **parts)
    return architecture, tuned_on(folder)


@pytest.mark.parametrize("kind", ["gguf-adapter", "gguf", "merged"])
def test_every_form_says_what_was_trained(wrapped: tuple[str, Loaded], kind: Kind, tmp_path: Path) -> None:
    check = export(wrapped[1], Order(kind), tmp_path / "out").check
    limit = min(check.limit, RIGHT["BF16" if kind == "merged" else "F16"])
    assert check.same_ids == check.prompts and 0 < check.difference <= limit


def test_a_file_holds_the_language_model_alone(wrapped: tuple[str, Loaded], tmp_path: Path) -> None:
    architecture, trained = wrapped
    file = read_gguf(export(trained, Order("gguf"), tmp_path / "out").path / "model.gguf")
    assert file.architecture == architecture
    assert not any("vision" in name or "visual" in name for name in file.tensors)
    pictures = trained.base.spec.hf_config.vision_config
    layers = len(getattr(pictures, "deepstack_visual_indexes", None) or ())
    assert file.metadata.get("qwen3vl.n_deepstack_layers", 0) == (layers if architecture == "qwen3vl" else 0)


def test_an_adapter_is_read_back_under_the_names_of_the_whole(
    wrapped: tuple[str, Loaded], tmp_path: Path
) -> None:
    _, trained = wrapped
    assert trained.model is not None
    write_gguf_adapter(trained, tmp_path / "adapter.gguf")
    _, tensors = from_gguf(read_gguf(tmp_path / "adapter.gguf"), trained.base.spec.hf_config)
    pairs = lora_pairs(trained.model)
    assert len(tensors) == 2 * len(pairs)
    for pair in pairs:
        assert torch.equal(tensors[f"base_model.model.{pair.module}.lora_B.weight"], pair.b)


def test_a_model_for_pictures_in_the_decoder_is_not_held_and_goes_into_a_folder(tmp_path: Path) -> None:
    """Chameleon's."""
    base = tiny_model_dir("chameleon", tmp_path)
    trained = tuned_on(base)
    assert not any("vqmodel" in name for name, _ in trained.network.named_parameters())
    done = export(trained, Order("merged"), tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(done.path / "model.safetensors")
    assert before.keys() == after.keys() and any("vqmodel" in name for name in before)
    for name in before:
        assert "vqmodel" not in name or torch.allclose(before[name], after[name].float(), atol=1e-2)


# --- bases that are files -----------------------------------------------------------------------------------

FROM_FILE: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: tiny_model_dir("qwen3vl", folder),
    "file": lambda folder: tiny_gguf("qwen3vl", folder / "base.gguf", kind="F32")[0],
}


def test_an_adapter_of_a_file_has_the_names_that_the_folder_has(tmp_path: Path) -> None:
    names = []
    for make in FROM_FILE.values():
        trained = tuned_on(make(tmp_path))
        assert trained.model is not None
        names.append({pair.module for pair in lora_pairs(trained.model)})
    assert names[0] == names[1] and all(".language_model." in name for name in names[0])


@pytest.mark.parametrize("storage", ["gguf", "bf16"])
def test_a_file_is_held_in_every_storage(storage: str, tmp_path: Path) -> None:
    path = FROM_FILE["file"](tmp_path)
    ids = torch.arange(5, 45)[None]
    exact, packed = (
        tuned_on(path, config=BaseConfig(model=str(path), storage=kind, compute_dtype="fp32"))  # type: ignore[arg-type]
        for kind in ("fp32", storage)
    )
    with torch.no_grad():
        logits = [one.network(input_ids=ids, use_cache=False).logits for one in (exact, packed)]
    assert (logits[0] - logits[1]).abs().max() < (1e-4 if storage == "gguf" else 0.2)


def test_a_file_without_the_part_for_pictures_makes_no_folder(tmp_path: Path) -> None:
    trained = tuned_on(FROM_FILE["file"](tmp_path))
    with pytest.raises(ExportError, match=r"holds the language model alone.*part for pictures"):
        export(trained, Order("merged"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
