"""What is followed through a script, and what is said where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.migrate.read import Migration, bring

HEAD = """\
import argparse, os, torch, yaml
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer
"""
TUNER = """\
class Ground:
    name = "org/base"

class Tuner(Ground):
    def __init__(self, rank=8):
        self.rank = rank
        self.words = AutoTokenizer.from_pretrained(self.name)
        self.net = AutoModelForCausalLM.from_pretrained(self.name)

    def wording(self, example):
        talk = [{"role": "user", "content": example["q"]}, {"role": "assistant", "content": example["a"]}]
        return {"text": self.words.apply_chat_template(talk, tokenize=False)}

    def run(self, path="rows.jsonl"):
        self.net = get_peft_model(self.net, LoraConfig(r=self.rank, target_modules=["q_proj"]))
        rows = load_dataset("json", data_files=path, split="train").map(self.wording)
        SFTTrainer(self.net, SFTConfig("out", learning_rate=2e-4), None, rows).train()
"""


def brought(text: str, folder: Path) -> Migration:
    path = folder / "train.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return bring(path)


def told(found: Migration) -> set[str]:
    return {entry.theirs for entry in found.draft.entries if entry.state == "unread"}


@pytest.mark.parametrize(("use", "rank"), [("", 8), ("\nTuner(rank=16).run()\n", 16)])
def test_a_class_is_followed_whether_or_not_the_file_makes_one_of_it(
    use: str, rank: int, tmp_path: Path
) -> None:
    settings = brought(TUNER + use, tmp_path).draft.settings
    wanted = {
        "base.model": "hf:org/base",
        "lora.rank": rank,
        "data.train": ["rows.jsonl"],
        "data.columns": {"prompt": "q", "completion": "a"},
        "train.lr": 2e-4,
        "save.dir": "out",
    }
    assert {key: settings.get(key) for key in wanted} == wanted


def test_no_default_stands_in_for_a_value_that_is_not_known(tmp_path: Path) -> None:
    found = brought(
        """
c = yaml.safe_load(open("c.yaml"))
net = AutoModelForCausalLM.from_pretrained("org/base")
net = get_peft_model(net, LoraConfig(r=c["r"], lora_alpha=c["alpha"], target_modules=c["modules"]))
how = TrainingArguments("out", learning_rate=c["lr"], num_train_epochs=c["n"], warmup_steps=c["w"],
    per_device_train_batch_size=c["size"], gradient_accumulation_steps=4)
Trainer(net, how, train_dataset=load_dataset("json", data_files="rows.jsonl")).train()
""",
        tmp_path,
    )
    given = ("lora.rank", "lora.alpha", "lora.targets", "train.lr", "train.epochs", "train.warmup")
    assert not {*given, "train.batch_size"} & found.draft.settings.keys()
    assert {"r", "lora_alpha", "target_modules", "learning_rate", "per_device_train_batch_size"} <= told(
        found
    )


def test_keys_that_are_not_known_leave_no_defaults(tmp_path: Path) -> None:
    found = brought(
        """
c = yaml.safe_load(open("c.yaml"))
net = get_peft_model(AutoModelForCausalLM.from_pretrained("org/base"), LoraConfig(**c["lora"]))
Trainer(net, TrainingArguments(**c["how"]), train_dataset=[]).train()
""",
        tmp_path,
    )
    assert "**" in told(found)
    assert not {"lora.rank", "lora.targets", "train.lr", "train.epochs"} & found.draft.settings.keys()


def test_an_option_that_decides_is_said_with_what_its_default_gives(tmp_path: Path) -> None:
    found = brought(
        """
parser = argparse.ArgumentParser()
parser.add_argument("--low", action="store_true")
args = parser.parse_args()
net = AutoModelForCausalLM.from_pretrained("org/base")
if args.low:
    net = get_peft_model(net, LoraConfig(r=8))
Trainer(net, TrainingArguments("out"), train_dataset=[]).train()
""",
        tmp_path,
    )
    assert found.draft.settings["lora.method"] == "full"
    assert any("its default gives False" in one.en and one.text == "args.low" for one in found.unfollowed)


@pytest.mark.parametrize("given", ["make_adapter()", "c['adapter']"])
def test_an_adapter_that_is_not_known_is_no_full_fine_tune(given: str, tmp_path: Path) -> None:
    found = brought(
        f"""
from ours import make_adapter, c
SFTTrainer("org/base", SFTConfig("out"), train_dataset=load_dataset("org/rows"), peft_config={given})
""",
        tmp_path,
    )
    assert "lora.method" not in found.draft.settings
    assert "peft_config" in told(found)


def test_a_text_that_is_only_a_prompt_is_not_taken_for_prompt_and_answer(tmp_path: Path) -> None:
    """Its last column would be learnt as the answer."""
    found = brought(
        """
def worded(example):
    return {"prompt": f"Ask: {example['question']} Facts: {example['context']} Say:"}

rows = load_dataset("json", data_files="rows.jsonl", split="train").map(worded)
net = AutoModelForCausalLM.from_pretrained("org/base")
Trainer(net, TrainingArguments("out"), train_dataset=rows).train()
""",
        tmp_path,
    )
    assert "data.columns" not in found.draft.settings
    assert any("prompt: Ask: {question}" in one.text for one in found.unfollowed)


def test_two_parts_of_one_dataset_are_not_the_same_rows(tmp_path: Path) -> None:
    found = brought(
        """
rows = load_dataset("org/rows")
SFTTrainer(model="org/base", args=SFTConfig("out"), train_dataset=rows["train"], eval_dataset=rows["test"])
""",
        tmp_path,
    )
    assert "eval-on-train" not in {fault.name for fault in found.faults}


@pytest.mark.parametrize(
    ("given", "name", "said"),
    [
        ("words.chat_template = 'A{% for m in messages %}{{ m.content }}{% endfor %}'", "@template", False),
        ("words = get_chat_template(words, chat_template='chatml')", "chatml", False),
        ("words = get_chat_template(words, 'gemma')", "gemma-2", False),
        ("net, words = setup_chat_format(net, words)", "chatml", False),
        ("words.chat_template = open('chat.jinja').read()", "auto", True),
        ("words = get_chat_template(words, chat_template='zephyr')", "auto", True),
    ],
)
def test_a_chat_template_that_a_script_gives_takes_the_place_of_the_tokenizers(
    given: str, name: str, said: bool, tmp_path: Path
) -> None:
    found = brought(
        f"""
from trl import setup_chat_format
from unsloth.chat_templates import get_chat_template
net = AutoModelForCausalLM.from_pretrained("org/base")
words = AutoTokenizer.from_pretrained("org/base")
{given}
SFTTrainer(net, SFTConfig("out"), train_dataset=load_dataset("org/rows"), processing_class=words).train()
""",
        tmp_path,
    )
    assert found.draft.settings.get("template.name", "auto") == name
    assert said == bool({"chat_template", "get_chat_template"} & told(found))


def test_places_are_said_in_chinese_too(tmp_path: Path) -> None:
    source = brought("net = AutoModelForCausalLM.from_pretrained('org/base')\n", tmp_path).source
    assert (source.place(3), source.place(3, zh=True)) == ("line 3", "第 3 行")


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("bloom", "bigscience/bloomz-7b1"),
        ("gpt2", "gpt2"),
        ("gpt2", "openai-community/gpt2-xl"),
        ("gpt_neox", "EleutherAI/pythia-12b"),
        ("gptj", "EleutherAI/gpt-j-6b"),
        ("gpt_bigcode", "bigcode/starcoderbase"),
        ("falcon", "tiiuae/falcon-7b"),
        ("mpt", "mosaicml/mpt-7b"),
        ("codegen", "Salesforce/codegen-350M-mono"),
        ("phi", "microsoft/phi-2"),
        ("opt", "facebook/opt-350m"),
        ("qwen2", "Qwen/Qwen2.5-0.5B"),
        ("llama", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_targets_that_are_not_set_are_pefts_own(family: str, model: str, tmp_path: Path) -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    text = f'get_peft_model(AutoModelForCausalLM.from_pretrained("{model}"), LoraConfig(r=4))\n'
    assert brought(text, tmp_path).draft.settings["lora.targets"] == TARGETS[family]
