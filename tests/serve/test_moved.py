"""A finished adapter's folder opens wherever it went, with the base wherever that went: fingerprints decide,
names and cards don't."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sapwood import finetune
from sapwood.adapter.folder import load_adapter
from sapwood.cli import app
from sapwood.config.file import parse_config
from sapwood.errors import ConfigError, ModelError, SapwoodError, StorageError
from sapwood.export.hub import pack
from sapwood.serve.load import Loaded, open_target
from tests.base.tiny import tiny_llama

IDS = torch.tensor([[1, 300, 301, 302, 2, 1, 77, 78, 79]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose base was named by a relative path, and what its adapter answers."""
    folder = tmp_path_factory.mktemp("moved")
    tiny_llama(folder)
    rows = [{"instruction": f"tree {i}?", "output": f"It is number {i}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "base": {"model": "tiny-llama", "storage": "fp32"},
        "data": {"train": str(folder / "rows.jsonl"), "eval": 2},
        "lora": {"rank": 4},
        "train": {"max_steps": 2, "batch_size": 4, "lr": 0.01},
        "eval": {"samples": 0},
        "save": {"dir": str(folder / "runs")},
        "name": "moved",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        adapter = finetune(parse_config(settings))
    shutil.copytree(adapter.path, folder / "finished")
    torch.save(logits(open_target(str(adapter.path), folder)), folder / "expected.pt")
    return folder


def logits(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return loaded.network(IDS).logits


def copied(folder: Path) -> None:
    pass


def without_manifest(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()


def with_another_card(folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n")


def without_a_card(folder: Path) -> None:
    (folder / "README.md").unlink()


def with_a_hubs_attributes(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")


def with_a_hubs_cache(folder: Path) -> None:
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "adapter_model.safetensors.metadata").write_text("x")


def with_pictures(folder: Path) -> None:
    (folder / "loss.png").write_bytes(b"png")
    (folder / "LICENSE").write_text("mine\n")


def as_a_git_checkout(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    with_a_hubs_attributes(folder)


def as_pushed(folder: Path) -> None:
    parcel = pack(folder, "me/mine", {}, {})
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in parcel.files.items():
        (folder / name).write_bytes(content)


def as_pushed_and_downloaded(folder: Path) -> None:
    as_pushed(folder)
    with_a_hubs_attributes(folder)
    with_a_hubs_cache(folder)


def with_the_base_renamed_in_pefts_settings(folder: Path) -> None:
    without_manifest(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "org/name"}))


def behind_a_link(folder: Path) -> None:
    folder.rename(folder.with_name("real"))
    folder.symlink_to(folder.with_name("real"))


SHAPES: list[Callable[[Path], None]] = [
    copied, without_manifest, with_another_card, without_a_card, with_a_hubs_attributes, with_a_hubs_cache,
    with_pictures, as_a_git_checkout, as_pushed, as_pushed_and_downloaded,
    with_the_base_renamed_in_pefts_settings, behind_a_link,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_folder_in_any_shape_opens_with_the_base_where_it_is_now(
    shape: Callable[[Path], None], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(place / "finished", folder)
    shape(folder)
    base = shutil.copytree(place / "tiny-llama", tmp_path / "base of another name")
    monkeypatch.chdir(tmp_path)
    found = logits(open_target("elsewhere", tmp_path, base=str(base)))
    assert torch.equal(found, torch.load(place / "expected.pt"))


def test_a_base_that_was_named_by_a_relative_path_is_found_from_any_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(open_target("last", place / "runs")), torch.load(place / "expected.pt"))


def test_a_base_that_is_gone_is_asked_for(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "finished", tmp_path / "elsewhere")
    without_manifest(folder)
    facts = json.loads((folder / "sapwood.json").read_text())
    gone = facts | {"base": "gone", "base_path": "/nowhere/gone"}
    (folder / "sapwood.json").write_text(json.dumps(gone))
    with pytest.raises(ModelError, match=r"it was /nowhere/gone .* --base FOLDER"):
        open_target(str(folder), tmp_path)


def test_another_base_is_refused_whatever_it_is_called(place: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path, seed=1)
    assert other.name == "tiny-llama"
    with pytest.raises(ModelError, match="not the base that this adapter was trained on"):
        open_target(str(place / "finished"), tmp_path, base=str(other))


def test_a_base_has_no_base(place: Path) -> None:
    with pytest.raises(ConfigError, match="is a base itself"):
        open_target(str(place / "tiny-llama"), place, base="x")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "sapwood.json"])
def test_weights_settings_and_facts_are_guarded(name: str, place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "finished", tmp_path / "elsewhere")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(StorageError, match="size differs"):
        load_adapter(folder)
    with pytest.raises(StorageError, match="size differs"):
        open_target(str(folder), tmp_path)


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, SapwoodError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_chat_eval_combine_and_export_take_the_folder_and_the_base(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(place / "finished", tmp_path / "pushed")
    as_pushed(folder)
    base = shutil.copytree(place / "tiny-llama", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    call("chat", "pushed", "--base", base, "-p", "hi", "--max-new-tokens", 2)
    told = json.loads(
        call("eval", "pushed", "--base", base, "--data", place / "rows.jsonl", "--answers", 0, "--json")
    )
    assert told["rows"] == 8
    with pytest.raises(ConfigError, match="no rows to measure on"):
        call("eval", "pushed", "--base", base)
    call("combine", "pushed", "pushed", "--base", base, "--out", "sum")
    assert torch.allclose(logits(open_target("sum", tmp_path)), torch.load(place / "expected.pt"), atol=1e-5)
    call("export", "pushed", "--base", base, "--to", "merged", "--out", "merged")
    assert (tmp_path / "merged" / "config.json").is_file()
