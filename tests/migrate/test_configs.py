"""Other tools' configs: facts of public ones, complete tables, datasets followed, command lines, folders."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sapwood.errors import DataError
from sapwood.migrate.keys import CONVERTERS, table
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.write import validated

CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parent / "configs.yaml").read_text("utf-8")
)
LISTS = {
    "llamafactory": ("llamafactory", "hf:train"), "ms_swift": ("swift", "hf:train"), "axolotl": ("axolotl",),
    "mlx_lm": ("mlx",), "torchtune": ("torchtune",), "unsloth": ("unsloth",),
    "TrainingArguments": ("hf:train",),
    "SFTConfig": ("hf:train",), "LoraConfig": ("hf:lora",),
}  # fmt: skip
PARTS = ("load", "quantize", "lora", "train", "trainer", "generate", "tokenizer")


def command(case: dict[str, Any]) -> str:
    words = [
        f"--{key} {value if not isinstance(value, bool) else str(value).lower()}"
        for key, value in case["set"].items()
    ]
    return "#!/bin/bash\n" + " \\\n    ".join([case["command"], *words]) + "\n"


def brought(case: dict[str, Any], folder: Path) -> Migration:
    path = folder / case["name"]
    text = command(case) if "command" in case else json.dumps(case["set"], ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8")
    found = bring(path)
    validated(found.draft)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["link"].partition("/blob/main/")[2])
def test_every_fact_is_right_or_said_to_be_unknown(case: dict[str, Any], tmp_path: Path) -> None:
    found = brought(case, tmp_path)
    got = found.draft.settings
    assert {
        key: (got.get(key), wanted) for key, wanted in case["facts"].items() if got.get(key) != wanted
    } == {}
    told = {entry.theirs for entry in found.draft.entries if entry.state == "unread"}
    assert set(case.get("said", ())) <= told
    entries = {entry.theirs for entry in found.draft.entries}
    assert not {key for key, value in case["set"].items() if not isinstance(value, dict)} - entries


def test_there_are_thirty_of_them() -> None:
    assert len(CASES) >= 30


def listed(name: str) -> set[str]:
    text = files("sapwood.migrate").joinpath("tables", "keys", f"{name}.txt").read_text("utf-8")
    head, _, rest = text.partition("\n")
    assert head.startswith("# ") and any(c.isdigit() for c in head), "the version that was read"
    return set(rest.split())


@pytest.mark.parametrize("name", LISTS)
def test_every_key_of_the_version_that_was_read_is_in_the_table(name: str) -> None:
    keys = listed(name)
    assert keys
    assert not {key for key in keys if not any(key in table(one) for one in LISTS[name])}


@pytest.mark.parametrize(
    "name", [*(t for ts in LISTS.values() for t in ts), *(f"hf:{part}" for part in PARTS)]
)
def test_every_converter_exists_and_every_group_says_why_in_both_languages(name: str) -> None:
    known = table(name)
    for key, ours in known.keys.items():
        assert not ours.startswith("@") or ours[1:] in CONVERTERS, f"{key}: {ours}"
    for group in known.instead.values():
        assert group.en and group.zh and group.en != group.zh
    for en, zh in known.remarks.values():
        assert en and zh and any(ord(c) > 0x2E80 for c in zh), (en, zh)


@pytest.mark.parametrize(("library", "name"), [("transformers", "TrainingArguments"), ("peft", "LoraConfig")])
def test_the_lists_are_those_of_the_installed_libraries(library: str, name: str) -> None:
    import importlib

    made = getattr(importlib.import_module(library), name)
    assert {field.name for field in dataclasses.fields(made) if field.init} <= listed(name)


def test_an_unknown_key_is_listed_and_never_dropped(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "base_model: a/b\nadapter: lora\nlora_r: 8\nsurprise: 3\ndatasets: []\n", encoding="utf-8"
    )
    entry = next(e for e in bring(path).draft.entries if e.theirs == "surprise")
    assert (entry.state, entry.line, entry.matters) == ("unread", 4, True)


def test_dataset_info_is_followed_to_the_file_and_its_columns(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    info = {"mine": {"file_name": "rows.json", "columns": {"prompt": "q", "query": "", "response": "a",
    "system": "s"}},
            "talks": {"hf_hub_url": "org/talks", "formatting": "sharegpt",
            "columns": {"messages": "turns"}}}  # fmt: skip
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: a/b\nstage: sft\ntemplate: qwen\ndataset: mine\n", encoding="utf-8")
    got = bring(path).draft.settings
    assert got["data.train"] == ["data/rows.json"]
    assert got["data.columns"] == {"instruction": "q", "output": "a", "system": "s"}
    path.write_text("model_name_or_path: a/b\nstage: sft\ntemplate: qwen\ndataset: talks\n", encoding="utf-8")
    got = bring(path).draft.settings
    assert got["data.train"] == ["hf:org/talks"]
    assert (got["data.format"], got["data.columns"]) == ("sharegpt", {"conversations": "turns"})


def test_axolotls_own_type_becomes_columns_and_its_wording_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "base_model: a/b\nadapter: lora\ndatasets:\n- path: json\n  data_files: [x.jsonl, y.jsonl]\n"
        "  type: {field_instruction: q, field_output: a, format: 'Q {instruction} A'}\n",
        encoding="utf-8",
    )
    found = bring(path)
    assert found.draft.settings["data.train"] == ["x.jsonl", "y.jsonl"]
    assert found.draft.settings["data.columns"] == {"instruction": "q", "output": "a"}
    assert any(e.theirs == "datasets.type.format" and e.state == "unread" for e in found.draft.entries)


def test_a_command_line_follows_its_variables_and_its_config(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(
        "model_name_or_path: a/b\nlora_rank: 4\ncutoff_len: 512\n", encoding="utf-8"
    )
    path = tmp_path / "go.sh"
    line = "llamafactory-cli train sft.yaml lora_rank=$RANK learning_rate=${LR}"
    path.write_text(f"RANK=32\nexport LR=2e-4  # so much\n{line}\n", encoding="utf-8")
    got = bring(path).draft.settings
    assert (got["lora.rank"], got["train.lr"], got["pack.length"]) == (32, 2e-4, 512)


def test_a_config_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "go.sh"
    path.write_text(
        "tune run lora_finetune_single_device --config llama3_1/8B_lora optimizer.lr=1e-4\n", encoding="utf-8"
    )
    found = bring(path)
    assert found.draft.settings["train.lr"] == 1e-4
    assert any(entry.theirs == "config" and entry.state == "unread" for entry in found.draft.entries)


def test_training_arguments_are_read_without_being_unpickled(tmp_path: Path) -> None:
    import torch
    from transformers import TrainingArguments

    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5, "seed": 7}
    rates = {"learning_rate": 3e-4, "lr_scheduler_type": "cosine", "optim": "adamw_torch"}
    given = TrainingArguments(str(tmp_path / "out"), **sizes, **rates)
    torch.save(given, tmp_path / "training_args.bin")
    got = bring(tmp_path / "training_args.bin").draft.settings
    assert (got["train.micro_batch"], got["train.batch_size"], got["train.lr"]) == (3, 15, 3e-4)
    assert (got["train.schedule"], got["train.optimizer"], got["train.seed"]) == ("cosine", "adamw", 7)


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    program = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (tmp_path / "training_args.bin").write_bytes(program)
    with pytest.raises(DataError, match="training arguments"):
        bring(tmp_path / "training_args.bin")
    assert not mark.exists()


def test_a_peft_folder_gives_base_and_adapter(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 16, "lora_alpha": 64,
    "lora_dropout": 0.05,
              "target_modules": ["q_proj"], "bias": "none", "use_dora": True,
              "modules_to_save": ["lm_head"]}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    found = bring(tmp_path)
    got = found.draft.settings
    assert (got["base.model"], got["lora.method"], got["lora.rank"], got["lora.alpha"]) == (
        "hf:org/base",
        "dora",
        16,
        64,
    )
    assert any(entry.theirs == "modules_to_save" and entry.matters for entry in found.draft.entries)


@pytest.mark.parametrize("text", ["a: [", "a: {b: 1}", "", "- 1", "\t\0"])
def test_what_is_no_config_of_a_known_tool_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        bring(path)
    assert len(caught.value.problems) == 1


def test_a_page_with_a_command_line_only_is_read_as_that_command(tmp_path: Path) -> None:
    path = tmp_path / "readme.md"
    path.write_text(
        "Train it:\n\n```bash\nswift sft --model a/b --train_type lora --lora_rank 4\n```\n", encoding="utf-8"
    )
    assert bring(path).draft.settings["lora.rank"] == 4


def test_a_command_in_a_cell_has_the_cell_for_its_place(tmp_path: Path) -> None:
    path = tmp_path / "go.ipynb"
    cells = [
        {"cell_type": "code", "source": ["x = 1\n"]},
        {"cell_type": "code", "source": ["!swift sft --model a/b --lora_rank 4"]},
    ]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = bring(path)
    entry = next(e for e in found.draft.entries if e.theirs == "lora_rank")
    assert (found.draft.settings["lora.rank"], found.source.place(entry.line)) == (4, "cell 2 line 1")
