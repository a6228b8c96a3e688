"""What the hubs' caches hold, in the layouts that their own libraries write and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.base.held import held, taken
from tests.base.caches import in_hugging_face


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two empty caches, which the libraries are told of."""
    pytest.importorskip("modelscope_hub", reason="ms: needs ModelScope's client")
    hugging_face, modelscope = tmp_path / "hf", tmp_path / "ms"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hugging_face))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(modelscope))
    return hugging_face, modelscope


def test_models_and_adapters_are_told_apart_and_the_rest_is_left_out(caches: tuple[Path, Path]) -> None:
    hugging_face, modelscope = caches
    in_hugging_face(hugging_face, "model:org/base", config__json=b"{}", model__safetensors=b"x" * 5000)
    in_hugging_face(hugging_face, "model:org/ours", adapter_config__json=b"{}", config__json=b"{}")
    in_hugging_face(hugging_face, "model:org/words", tokenizer__json=b"{}")
    in_hugging_face(hugging_face, "dataset:org/rows", config__json=b"{}")
    folder = modelscope / "models" / "org--other" / "snapshots" / "master"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    assert [(one.name, one.kind) for one in held()] == [
        ("hf:org/base", "model"), ("hf:org/ours", "adapter"), ("ms:org/other", "model"),
    ]  # fmt: skip
    assert held()[0].size >= 5000


def test_caches_that_are_not_there_hold_nothing(caches: tuple[Path, Path]) -> None:
    assert held() == []


def test_a_folder_takes_what_its_files_take_and_a_link_takes_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "in" / "b").hardlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "in" / "a")
    assert 100_000 <= taken(tmp_path) < 150_000
    assert taken(tmp_path / "nowhere") == 0
