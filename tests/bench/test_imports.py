"""The facts of real scripts, and how an import is held against them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from sapwood.config.file import field_of

BENCH = Path(__file__).parents[2] / "bench"
TREE: dict[str, Any] = YAML(typ="safe", pure=True).load((BENCH / "imports.yaml").read_text("utf-8"))
CASES: list[dict[str, Any]] = [*TREE["scripts"], *TREE["configs"]]
SCRIPT = """\
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
from elsewhere import rank
rows = load_dataset("json", data_files="rows.jsonl", split="train")
how, low = SFTConfig("out", learning_rate=1e-4), LoraConfig(r=rank)
SFTTrainer("org/base", how, train_dataset=rows, peft_config=low).train()
"""


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_imports", BENCH / "imports.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_forty_scripts_each_at_the_commit_that_was_read() -> None:
    assert len({case["link"] for case in CASES}) == len({case["file"] for case in CASES}) == len(CASES)
    assert len(TREE["scripts"]) >= 40
    for case in CASES:
        commit = case["link"].partition("/blob/")[2].partition("/")[0]
        assert len(commit) == 40 and int(commit, 16), case["link"]
        assert Path(case["link"]).suffix == Path(case["file"]).suffix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_every_fact_is_of_a_key_that_the_config_has(case: dict[str, Any]) -> None:
    assert not [key for key in case["facts"] if field_of(key.split(".")) is None]


def test_a_fact_is_right_or_told_or_wrong_in_silence(imports: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    facts = {
        "base.model": "hf:org/base", "train.lr": 1e-4, "lora.rank": "?",  # right
        "template.train_on": "all",  # told: only the answers are learnt here
        "train.epochs": 7, "lora.alpha": "?",  # wrong: it is 3, and peft's default
    }  # fmt: skip
    case = {"file": "train.py", "link": "", "kind": "scripts", "facts": facts, "said": ["r", "nothing"]}
    row = imports.measure(tmp_path / "train.py", case)
    found = {
        fact["key"] + (f" {fact['wanted']}" if fact["key"] == "said" else ""): fact["state"]
        for fact in row["facts"]
    }
    assert found == {
        "base.model": "right", "train.lr": "right", "lora.rank": "right", "template.train_on": "told",
        "train.epochs": "silent", "lora.alpha": "silent", "said r": "right", "said nothing": "silent",
    }  # fmt: skip


def test_a_script_that_is_refused_is_told_as_a_whole(imports: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing trains here\n", encoding="utf-8")
    row = imports.measure(
        tmp_path / "notes.md", {"file": "notes.md", "link": "", "kind": "scripts", "facts": {"train.lr": 1}}
    )
    assert [fact["state"] for fact in row["facts"]] == ["told"]
    assert row["refused"]


def test_a_script_that_is_not_at_hand_is_not_looked_for_unasked(imports: ModuleType, tmp_path: Path) -> None:
    assert not imports.present(tmp_path / "none.py", CASES[0]["link"], fetch=False)
