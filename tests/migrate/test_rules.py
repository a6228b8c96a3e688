"""Every rule, on a script that has the fault; and on one that hasn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.migrate.read import bring
from sapwood.migrate.rules import CHECKS
from tests.migrate.test_tutorials import EXPECTED

# Careful: nothing of it is a fault.
CLEAN = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers import DataCollatorForSeq2Seq
set_seed(1)
tokenizer = AutoTokenizer.from_pretrained("./Qwen2.5-7B-Instruct")
model = AutoModelForCausalLM.from_pretrained("./Qwen2.5-7B-Instruct", torch_dtype=torch.bfloat16)
model.enable_input_require_grads()
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.05))


def process(example):
    head = tokenizer(f"<|im_start|>user\\n{example['question']}<|im_end|>\\n<|im_start|>assistant\\n",
                     add_special_tokens=False)
    tail = tokenizer(f"{example['answer']}<|im_end|>", add_special_tokens=False)
    ids = head["input_ids"] + tail["input_ids"]
    return {"input_ids": ids, "attention_mask": [1] * len(ids),
            "labels": [-100] * len(head["input_ids"]) + tail["input_ids"]}


rows = load_dataset("json", data_files="rows.jsonl", split="train").map(process)
asked = load_dataset("json", data_files="asked.jsonl", split="train").map(process)
args = TrainingArguments(output_dir="out", per_device_train_batch_size=2, learning_rate=1e-4, bf16=True,
                         gradient_checkpointing=True, save_steps=200, report_to="tensorboard")
trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=asked, processing_class=tokenizer,
                  data_collator=DataCollatorForSeq2Seq(tokenizer))
trainer.train()
trainer.save_model("out/final")
tokenizer.save_pretrained("out/final")
"""

SYSTEM = ("<|im_start|>user\\n{ex", "<|im_start|>system\\nBe kind<|im_end|>\\n<|im_start|>user\\n{ex")
ASKED = """trainer.train()
prompt = tokenizer.apply_chat_template([{'role': 'user', 'content': 'x'}], tokenize=False)
"""

# name -> what in CLEAN is replaced by what: old, new, old, new …
CHANGES: dict[str, tuple[str, ...]] = {
    "no-end-learnt": ("<|im_start|>user\\n{example['question']}<|im_end|>\\n<|im_start|>assistant\\n",
    "Q {example['question']} A ",
                     "{example['answer']}<|im_end|>", "{example['answer']}"),
    "end-of-turn-not-learnt": ("{example['answer']}<|im_end|>", "{example['answer']}"),
    "template-of-another-family": ("./Qwen2.5-7B-Instruct", "./Llama-3-8B-Instruct"),
    "system-on-gemma": ("./Qwen2.5-7B-Instruct", "./gemma-2-9b-it", *SYSTEM),
    "targets-match-nothing": ('"all-linear"', '["q_proj", "c_attn"]'),
    "scale-high": ("lora_alpha=32", "lora_alpha=512"),
    "scale-low": ("lora_alpha=32", "lora_alpha=4"),
    "lr-unusual": ("learning_rate=1e-4", "learning_rate=0.01"),
    "fp16-no-scaling": ("bfloat16)", "float16)", ", bf16=True", ""),
    "fp16-and-bf16": ("bf16=True", "bf16=True, fp16=True"),
    "eval-on-train": ("eval_dataset=asked", "eval_dataset=rows"),
    "best-needs-eval": ("save_steps=200", "save_steps=200, load_best_model_at_end=True"),
    "version-gone": ("import torch", "# pip install transformers==4.46.9\nimport torch"),
    "packing-mixes-rows": ("Trainer(model", "SFTTrainer(packing=True, model"),
    "system-not-at-inference": (*SYSTEM, "trainer.train()", ASKED),
    "argument-gone": ("save_steps=200", "save_steps=200, evaluation_strategy='steps'"),
    "device-hard-coded": ("set_seed(1)", "set_seed(1)\nx = torch.zeros(1).to('cuda')"),
    "checkpoints-unlimited": ("save_steps=200", "save_steps=5"),
    "open-without-encoding": ("set_seed(1)", "set_seed(1)\nopen('rows.jsonl')"),
    "no-such-dtype": ("torch.bfloat16", "torch.bf16"),
    "bos-twice": (
        'f"<|im_start|>user\\n{example[\'question\']}<|im_end|>\\n<|im_start|>assistant\\n",\n'
        "                     add_special_tokens=False",
        'f"<s>[INST] {example[\'question\']} [/INST] "',
    ),
}  # fmt: skip


def names(text: str, folder: Path) -> set[str]:
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    return {fault.name for fault in bring(path).faults}


def test_a_script_without_faults_has_none(tmp_path: Path) -> None:
    assert names(CLEAN, tmp_path) == set()


@pytest.mark.parametrize("name", CHANGES)
def test_a_fault_that_is_put_in_is_found(name: str, tmp_path: Path) -> None:
    text, change = CLEAN, CHANGES[name]
    for old, new in zip(change[::2], change[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    assert name in names(text, tmp_path)


def test_every_rule_has_a_case_here_or_in_the_tutorials() -> None:
    assert not set(CHECKS) - set(CHANGES) - {name for found in EXPECTED.values() for name in found}
