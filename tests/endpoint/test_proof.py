"""What isn't what was trained is refused by name, and the others are served."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sapwood import finetune
from sapwood.base.cache import cache_dir
from sapwood.config.sections import LoraConfig
from sapwood.endpoint.build import kept
from sapwood.endpoint.reference import ADAPTER
from sapwood.engine import llama
from sapwood.engine.llama import Llama
from sapwood.errors import ModelError
from sapwood.run.files import MANIFEST, staged_dir
from sapwood.serve.found import find_place
from tests.base.tiny import tiny_llama, tiny_tokenizer
from tests.endpoint.ask import error, post, said
from tests.endpoint.serving import Running, make_adapter, running
from tests.gguf.tiny_gguf import tiny_gguf

WEIGHTS, FACTS = "adapter_model.safetensors", "sapwood.json"


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def scaled(folder: Path, by: float, part: str = "lora_B") -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({n: t * by if part in n else t for n, t in tensors.items()}, folder / WEIGHTS)


def facts(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(told | changes))


def cut(path: Path, by: int = 100) -> None:
    os.truncate(path, path.stat().st_size - by)


def inert(folder: Path) -> None:
    scaled(folder, 0)


def inert_by_a(folder: Path) -> None:
    scaled(folder, 0, "lora_A")


def nearly_inert(folder: Path) -> None:
    scaled(folder, 1e-5)


def not_a_number(folder: Path) -> None:
    scaled(folder, float("nan"))


def other_base(folder: Path) -> None:
    facts(folder, base_fingerprint="0" * 64)


def other_template(folder: Path) -> None:
    facts(folder, template_fingerprint="0" * 64)


def cut_weights(folder: Path) -> None:
    cut(folder / WEIGHTS)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def facts_that_are_no_json(folder: Path) -> None:
    (folder / FACTS).write_text("{")


def a_tensor_missing(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / WEIGHTS)


def another_rank(folder: Path) -> None:
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"r": 2}))


def other_storage(folder: Path) -> None:
    facts(folder, storage="nf4")


def tensors_changed(folder: Path, change: Any) -> None:
    """change: (name, tensor) -> the same, otherwise; None leaves it out."""
    found = (change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items())
    save_file({name: tensor.contiguous() for name, tensor in filter(None, found)}, folder / WEIGHTS)


def one_infinite(folder: Path) -> None:
    def change(name: str, tensor: Tensor) -> Any:
        if "layers.1" in name and "lora_B" in name:
            tensor[0, 0] = float("inf")
        return name, tensor

    tensors_changed(folder, change)


def a_and_b_swapped(folder: Path) -> None:
    def change(name: str, tensor: Tensor) -> Any:
        other = "lora_B" if "lora_A" in name else "lora_A"
        return re.sub("lora_[AB]", other, name), tensor

    tensors_changed(folder, change)


def a_row_too_few(folder: Path) -> None:
    tensors_changed(folder, lambda name, tensor: (name, tensor[:-1] if "lora_B" in name else tensor))


def layers_shifted(folder: Path) -> None:
    def change(name: str, tensor: Tensor) -> Any:
        return re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) + 1}", name), tensor

    tensors_changed(folder, change)


def a_layer_missing(folder: Path) -> None:
    tensors_changed(folder, lambda name, tensor: None if "layers.1." in name else (name, tensor))


def whole_numbers(folder: Path) -> None:
    tensors_changed(folder, lambda name, tensor: (name, tensor.to(torch.int8)))


def another_alpha(folder: Path) -> None:
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 32}))


def another_tokenizer(folder: Path) -> None:
    tokenizer = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def edited_after_its_run(folder: Path) -> None:
    bare = folder.rename(folder.with_name("bare"))
    with staged_dir(folder) as stage:
        shutil.copytree(bare, stage, dirs_exist_ok=True)
    shutil.rmtree(bare)
    scaled(folder, 1.5)


BROKEN = [
    inert, inert_by_a, nearly_inert, not_a_number, other_base, other_template, cut_weights, no_weights,
    facts_that_are_no_json, a_tensor_missing, another_rank, other_storage, one_infinite, a_and_b_swapped,
    a_row_too_few, layers_shifted, a_layer_missing, whole_numbers, another_alpha, another_tokenizer,
    edited_after_its_run,
]  # fmt: skip
MADE = ["gone", "on-another-base", "swapped"]


@pytest.fixture(scope="module")
def mixed(base: Path, adapters: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One good adapter, then bad ones of every kind, then another good one."""
    folder = tmp_path_factory.mktemp("mixed")
    for fault in BROKEN:
        fault(copy(adapters / "first", folder / fault.__name__))
    make_adapter(tiny_llama(folder / "elsewhere", seed=5), folder / "on-another-base", 4)
    swapped = copy(adapters / "first", folder / "swapped")
    scaled(swapped, -1)
    with running(adapters / "first", swapped):
        pass  # its files are in the cache now; they are made another adapter's, with a manifest that fits
    swap_files(swapped)
    bad = [folder / name for name in (*(fault.__name__ for fault in BROKEN), *MADE)]
    with running(adapters / "first", *(f"{path.name}={path}" for path in bad), adapters / "second") as up:
        yield up


def swap_files(adapter: Path) -> None:
    """Put another adapter's weights into the cached files of ``adapter``."""
    opened = kept(find_place(str(adapter), adapter))
    assert opened is not None and opened.files is not None and opened.files.adapter is not None
    own = opened.files.adapter
    others = [path for path in (cache_dir() / "serve").glob(f"*/{ADAPTER}") if path != own]
    kept_files = {path.name: path.read_bytes() for path in own.parent.iterdir() if path.name != MANIFEST}
    shutil.rmtree(own.parent)
    with staged_dir(own.parent) as stage:
        for name, content in kept_files.items():
            (stage / name).write_bytes(content)
        shutil.copy(others[0], stage / ADAPTER)


@pytest.mark.parametrize("name", [*(fault.__name__ for fault in BROKEN), *MADE])
def test_an_adapter_that_isnt_what_was_trained_is_refused_by_name(mixed: Running, name: str) -> None:
    assert mixed.library.refused.get(name), name
    response = post(mixed.url, "/v1/completions", model=name, prompt="x")
    assert response.status_code == 404 and mixed.library.refused[name][:40] in error(response)["message"]


def test_the_others_are_served(mixed: Running) -> None:
    assert [served.name for served in mixed.library.models][1:] == ["first", "second"]
    assert said(mixed.url, "first") != said(mixed.url, "second")


def test_each_reason_names_its_cause(mixed: Running) -> None:
    words = {
        "inert": "changes nothing", "inert_by_a": "changes nothing", "nearly_inert": "changes nothing",
        "other_base": "not the base", "other_template": "template", "on-another-base": "another base",
        "another_alpha": "alpha", "another_tokenizer": "another tokenizer", "a_layer_missing": "layers.1",
        "layers_shifted": "layers.2", "edited_after_its_run": "differs", "whole_numbers": "int8",
        "swapped": "aren't those of the trained model", "other_storage": "in another storage",
        "gone": "no run",
    }  # fmt: skip
    wrong = {
        name: mixed.library.refused[name]
        for name, why in words.items()
        if why not in mixed.library.refused[name]
    }
    assert not wrong


def test_an_engine_that_forgets_the_adapter_is_found_out(
    adapters: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of other servers: status 200, and the base answers."""
    monkeypatch.setattr(
        llama, "scales", lambda paths, _: [{"id": i, "scale": 0.0} for i, _ in enumerate(paths)]
    )
    with pytest.raises(ModelError, match=r"first · llama\.cpp") as caught, running(adapters / "first"):
        pass
    assert "aren't those of the trained model" in str(caught.value) or "as the base does" in str(caught.value)


def test_an_adapter_too_weak_for_the_bound_is_still_told_from_its_base(
    base: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the bound of the number formats of its base, but not if the engine leaves it out."""
    weak = make_adapter(base, tmp_path / "weak", 6, strength=0.004)
    with running(weak) as up:
        verdict = up.library.find("weak").verdict
        assert verdict is not None and verdict.effect is not None and verdict.effect < 0.05
    monkeypatch.setattr(
        llama, "scales", lambda paths, _: [{"id": i, "scale": 0.0} for i, _ in enumerate(paths)]
    )
    with pytest.raises(ModelError, match=r"weak · llama\.cpp"), running(weak):
        pass


def test_an_adapter_comes_and_goes_while_others_are_asked(
    endpoint: Running, adapters: Path, base: Path, tmp_path: Path
) -> None:
    before = said(endpoint.url, "first")
    third = make_adapter(base, tmp_path / "third", 3)
    loaded = post(endpoint.url, "/v1/load_lora_adapter", lora_name="third", lora_path=str(third))
    assert loaded.status_code == 200 and loaded.json()["model"]["parent"] == str(base)
    assert said(endpoint.url, "third") not in (before, said(endpoint.url, str(base)))
    assert said(endpoint.url, "first") == before
    again = post(endpoint.url, "/v1/load_lora_adapter", lora_name="third", lora_path=str(third))
    assert again.status_code == 400 and error(again)["code"] == "model_exists"
    assert post(endpoint.url, "/v1/unload_lora_adapter", lora_name="third").status_code == 200
    assert post(endpoint.url, "/v1/completions", model="third", prompt="x").status_code == 404
    assert said(endpoint.url, "first") == before
    assert [model["id"] for model in httpx.get(f"{endpoint.url}/v1/models").json()["data"]][1:] == [
        "first",
        "second",
    ]


def test_an_adapter_that_is_refused_while_it_runs_changes_nothing(
    endpoint: Running, adapters: Path, tmp_path: Path
) -> None:
    inert(copy(adapters / "first", tmp_path / "inert"))
    response = post(endpoint.url, "/v1/load_lora_adapter", lora_name="i", lora_path=str(tmp_path / "inert"))
    assert response.status_code == 400 and "changes nothing" in error(response)["message"]
    missing = post(endpoint.url, "/v1/load_lora_adapter", lora_name="m", lora_path=str(tmp_path / "no"))
    assert missing.status_code == 400
    assert said(endpoint.url, "second")


def test_what_llama_cpp_cant_load_is_served_by_torch_and_said(
    base: Path, adapters: Path, cache: Path, tmp_path: Path
) -> None:
    dora = make_adapter(base, tmp_path / "dora", 8, LoraConfig(rank=4, alpha=8, method="dora"))
    with running(dora, adapters / "first") as up:
        assert "dora is served by torch" in up.library.notes[0]
        told = {model["id"]: model for model in httpx.get(f"{up.url}/v1/models").json()["data"]}
        assert (told["dora"]["engine"], told["first"]["engine"]) == ("torch", "llama.cpp")
        whole = said(up.url, "dora", max_tokens=10)
        assert whole != said(up.url, "first", max_tokens=10)
        word = whole[3:5]
        assert said(up.url, "dora", max_tokens=10, stop=[word]) == whole[: whole.index(word)]
        body = {"model": "dora", "prompt": "The oak", "max_tokens": 2, "logprobs": 2, "echo": True}
        scored = post(up.url, "/v1/completions", **body).json()["choices"][0]["logprobs"]
        assert all(len(top) == 2 for top in scored["top_logprobs"][1:])
        refused = post(up.url, "/v1/completions", model="dora", prompt="x", min_p=0.1)
        assert refused.status_code == 400 and "min_p" in error(refused)["message"]


def test_a_base_alone_and_a_base_in_gguf_are_served(base: Path, cache: Path, tmp_path: Path) -> None:
    with running(base) as up:
        (only,) = up.library.models
        assert only.verdict is not None and only.verdict.difference <= only.verdict.limit
        assert said(up.url, str(base))
    file = tmp_path / "tiny.gguf"
    tiny_gguf("llama", file, kind="Q8_0")
    with running(make_adapter(file, tmp_path / "on-gguf", 9)) as up:
        assert [served.name for served in up.library.models] == [str(file), "on-gguf"]
        assert said(up.url, "on-gguf") != said(up.url, str(file))


def test_a_model_that_was_trained_whole_is_served(
    base: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Tree {i}?", "output": "Water it."} for i in range(8)]
    settings = {
        "base": {"model": str(base), "storage": "fp32"}, "lora": {"method": "full"}, "data": {"eval": 0},
        "train": {"max_steps": 2}, "eval": {"samples": 0},
    }  # fmt: skip
    finetune(settings, data=rows)
    with running("last") as up:
        (only,) = up.library.models
        assert only.parent is None and only.adapter is None
        whole = said(up.url, only.name)
    shutil.rmtree(next(Path("runs").glob("*/adapter")))  # as if it had been killed at its last checkpoint
    with running("last") as up:
        (only,) = up.library.models
        assert only.parent is None and "step-" in only.found.name and said(up.url, only.name) == whole


def test_the_second_start_makes_nothing_anew(
    endpoint: Running, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sapwood.endpoint import build

    monkeypatch.setattr(build, "_make", lambda *_: pytest.fail("made anew"))
    with running(adapters) as up:
        assert len(up.library.models) == 3


def test_a_damaged_file_of_the_cache_is_made_anew(endpoint: Running, adapters: Path) -> None:
    served = endpoint.library.find("second").adapter
    assert served is not None
    kept = served.read_bytes()
    try:
        served.unlink()
        served.write_bytes(kept[:-50] + bytes(50))
        (whole,) = [path for path in (cache_dir() / "serve").glob("*.gguf") if path in served_bases(endpoint)]
        content = whole.read_bytes()
        whole.unlink()  # a running engine keeps the old one
        whole.write_bytes(content[:-5000] + bytes(5000))
        with running(adapters / "second") as up:
            assert said(up.url, "second") == said(endpoint.url, "second")
    finally:
        assert served.read_bytes() == kept


def served_bases(endpoint: Running) -> set[Path]:
    return {engine.setup.model for engine in endpoint.library.engines if isinstance(engine, Llama)}
