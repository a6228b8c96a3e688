"""What a script leaves to a library, or says elsewhere than in its settings: taken over, or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sapwood.migrate.read import Migration, bring

HEAD = """\
import pandas as pd
from datasets import Dataset, load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments
from trl import DPOTrainer, ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config
"""
NET = 'net = AutoModelForCausalLM.from_pretrained("org/base")\n'
PACKED = f"small = BitsAndBytesConfig(load_in_4bit=True)\n{NET[:-2]}, quantization_config=small)\n"
WORDS = 'words = AutoTokenizer.from_pretrained("org/base")\n'
LOW = 'net = get_peft_model(net, LoraConfig(r=4, target_modules=["q_proj"]))\n'
ROWS = 'rows = load_dataset("json", data_files="rows.jsonl", split="train")\n'
TRAIN = 'Trainer(model=net, train_dataset=rows, args=TrainingArguments("out", learning_rate=1e-4)).train()\n'


def brought(text: str, folder: Path) -> Migration:
    path = folder / "train.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return bring(path)


def remarks(found: Migration, theirs: str) -> list[str]:
    return [e.en for e in found.draft.entries if e.state == "unread" and e.theirs == theirs]


@pytest.mark.parametrize(("trainer", "rate"), [("SFTTrainer", 2e-5), ("DPOTrainer", 1e-6), ("Trainer", 5e-5)])
def test_a_trainer_that_is_told_nothing_has_its_librarys_settings(
    trainer: str, rate: float, tmp_path: Path
) -> None:
    got = brought(f"{NET}{ROWS}{trainer}(model=net, train_dataset=rows).train()\n", tmp_path).draft.settings
    wanted = {"lr": rate, "epochs": 3, "batch_size": 8, "micro_batch": 8, "warmup": 0, "seed": 42}
    assert {key: got[f"train.{key}"] for key in wanted} == wanted


def test_settings_that_are_made_elsewhere_are_asked_for_and_none_is_made_up(tmp_path: Path) -> None:
    text = f"from ours import how\n{NET}{ROWS}SFTTrainer(model=net, args=how, train_dataset=rows).train()\n"
    found = brought(text, tmp_path)
    assert remarks(found, "args") == ["these settings aren't known here: set train"]
    assert not [key for key in found.draft.settings if key.startswith("train.")]


@pytest.mark.parametrize("text", [f"{LOW}{ROWS}{TRAIN}", "SFTTrainer(net, train_dataset=rows).train()\n"])
def test_a_model_that_is_made_elsewhere_is_asked_for(text: str, tmp_path: Path) -> None:
    found = brought(f"from ours import net, rows\n{text}", tmp_path)
    assert "base.model" not in found.draft.settings
    assert any("set base.model" in e.en for e in found.draft.entries if e.state == "unread")


def test_targets_that_peft_chooses_by_a_model_that_is_not_known_are_asked_for(tmp_path: Path) -> None:
    text = f"from ours import net\n{ROWS}SFTTrainer(net, train_dataset=rows, peft_config=LoraConfig(r=4))\n"
    found = brought(text, tmp_path)
    assert "lora.targets" not in found.draft.settings
    assert remarks(found, "target_modules") == ["peft chooses by the model: set lora.targets"]


@pytest.mark.parametrize(
    ("schedule", "warmup"), [("constant", 0), ("constant_with_warmup", 0.1), ("cosine", 0.1)]
)
def test_the_constant_schedule_has_no_warm_up(schedule: str, warmup: float, tmp_path: Path) -> None:
    how = f'TrainingArguments("out", warmup_ratio=0.1, lr_scheduler_type="{schedule}")'
    got = brought(f"{NET}{ROWS}Trainer(model=net, train_dataset=rows, args={how})\n", tmp_path).draft.settings
    assert (got["train.warmup"], got["train.schedule"]) == (warmup, schedule.partition("_")[0])


@pytest.mark.parametrize(
    ("calls", "on"),
    [
        (f"{PACKED}net = prepare_model_for_kbit_training(net)\n", True),
        (f"{PACKED}net = prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)\n", False),
        (f"{NET}net = prepare_model_for_kbit_training(net)\n", False),
        (f"{NET}net.gradient_checkpointing_enable()\n", True),
    ],
)
def test_layers_are_computed_again_where_a_call_asks_for_it(calls: str, on: bool, tmp_path: Path) -> None:
    got = brought(f"{calls}{LOW}{ROWS}{TRAIN}", tmp_path).draft.settings
    assert got["train.gradient_checkpointing"] is on


@pytest.mark.parametrize(
    "rows",
    [
        'all = pd.read_json("rows.jsonl", lines=True)\nrows = Dataset.from_pandas(all[len(all) // 10:])\n',
        'rows = load_dataset("json", data_files="rows.jsonl")["train"][:1000]\n',
    ],
)
def test_a_slice_of_the_rows_is_told_and_the_file_is_known(rows: str, tmp_path: Path) -> None:
    found = brought(f"{NET}{LOW}{rows}{TRAIN}", tmp_path)
    assert found.draft.settings["data.train"] == ["rows.jsonl"]
    assert remarks(found, "slice") == ["a part of the rows: write that part to a file of its own"]


def test_rows_that_the_script_makes_itself_are_told(tmp_path: Path) -> None:
    made = """\
import json
out = []
for one in json.load(open("rows.json")):
    out.append({"whole": one["q"] + one["a"]})
rows = Dataset.from_list(out).map(lambda row: words(row["whole"], truncation=True, max_length=64))
"""
    found = brought(f"{NET}{WORDS}{LOW}{made}{TRAIN}", tmp_path)
    assert any(one.en == "the script makes these rows itself" and one.line for one in found.unfollowed)


CODED = """\
import ours
def coded(row):
    made = words(ours.worded(row["q"], row["a"]), truncation=True, max_length=64)
    made["labels"] = made["input_ids"].copy()
    return made
rows = rows.map(coded)
"""


def test_labels_that_are_all_of_a_text_are_told_to_be_so_whatever_the_text(tmp_path: Path) -> None:
    found = brought(f"{NET}{WORDS}{LOW}{ROWS}{CODED}{TRAIN}", tmp_path)
    said = [e.en for e in found.draft.entries if e.key == "template.train_on"]
    assert any("set all to learn the prompt too" in en for en in said)
    assert remarks(found, "train_dataset") == [
        "how its rows become text couldn't be followed: set data.columns, template.name and pack.length"
    ]


def test_columns_that_depend_on_the_row_are_told(tmp_path: Path) -> None:
    either = """\
def talk(row):
    ask = row["question"] if "question" in row else row["instruction"]
    turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": row["answer"]}]
    return {"text": words.apply_chat_template(turns, tokenize=False)}
"""
    found = brought(f"{NET}{WORDS}{ROWS}{either}SFTTrainer(net, train_dataset=rows.map(talk))\n", tmp_path)
    assert any("columns that depend on the row: question, answer / instruction, answer" in one.text
               for one in found.unfollowed)  # fmt: skip


def test_a_tokenizers_longest_text_is_the_length_where_nothing_else_is(tmp_path: Path) -> None:
    words = 'words = AutoTokenizer.from_pretrained("org/base", model_max_length=384)\n'
    assert brought(f"{NET}{words}{LOW}{ROWS}{TRAIN}", tmp_path).draft.settings["pack.length"] == 384
    cut = "rows = rows.map(lambda row: words(row['text'], truncation=True, max_length=64))\n"
    assert brought(f"{NET}{words}{LOW}{ROWS}{cut}{TRAIN}", tmp_path).draft.settings["pack.length"] == 64


def test_an_option_of_trl_that_nobody_gives_is_off_and_that_is_told(tmp_path: Path) -> None:
    text = f"""\
base, how = TrlParser((ModelConfig, SFTConfig)).parse_args_and_config()
{NET}{ROWS}low = get_peft_config(base) if base.use_peft else None
SFTTrainer(model=net, args=how, train_dataset=rows, peft_config=low).train()
"""
    found = brought(text, tmp_path)
    assert found.draft.settings["lora.method"] == "full"
    said = "an option decides: its default gives False"
    assert ("base.use_peft", said) in {(one.text, one.en) for one in found.unfollowed}


DATED = """\
def coded(row):
    ask = words("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: "
        "December 2023\\nToday Date: 26 Jul 2024\\n\\nBe brief.<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\\n\\n{row['q']}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\\n\\n", add_special_tokens=False)
    say = words(f"{row['a']}<|eot_id|>", add_special_tokens=False)
    ids = ask["input_ids"] + say["input_ids"]
    return {"input_ids": ids, "labels": [-100] * len(ask["input_ids"]) + say["input_ids"]}
rows = rows.map(coded)
"""


@pytest.mark.parametrize(("name", "dated"), [("org/Llama-3.1-8B", False), ("org/Meta-Llama-3-8B", True)])
def test_the_dates_that_a_template_writes_itself_are_no_part_of_the_system_prompt(
    name: str, dated: bool, tmp_path: Path
) -> None:
    text = f"{NET}{WORDS}{LOW}{ROWS}{DATED}{TRAIN}".replace("org/base", name)
    got: dict[str, Any] = brought(text, tmp_path).draft.settings
    assert (got["data.system"].startswith("Cutting"), got["data.system"][-9:]) == (dated, "Be brief.")
