"""docs/tutorial-knobs.md: as its script writes it; its keys exist, with default, help and a test; none of the
tutorials' knobs is missing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.file import field_of

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT.parent / "shared" / "tutorials"

# What the tutorials write in code, in comments and in prose, gathered by hand.
INVENTORY = """
snapshot_download cache_dir local_files_only token use_auth_token trust_remote_code torch_dtype fp16 bf16
load_in_4bit bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant device_map use_cache
pretraining_tp enable_input_require_grads load_dataset read_json from_pandas split remove_columns MAX_LENGTH
max_seq_length padding padding_side pad_token pad_token_id use_fast add_special_tokens dataset_text_field
apply_chat_template add_generation_prompt r lora_alpha lora_dropout bias task_type inference_mode
target_modules print_trainable_parameters PrefixTuningConfig P-Tuning output_dir per_device_train_batch_size
per_device_eval_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps logging_steps
save_steps save_total_limit save_on_each_node gradient_checkpointing optim max_grad_norm warmup_ratio
report_to push_to_hub SFTTrainer Trainer HfArgumentParser callbacks lora_path save_pretrained max_new_tokens
skip_special_tokens generate pipeline
"""

CALLS = """
LoraConfig TrainingArguments BitsAndBytesConfig SFTTrainer Trainer DataCollatorForSeq2Seq load_dataset
snapshot_download SwanLabCallback DataLoaderConfiguration from_pretrained generate apply_chat_template
"""


def script(name: str = "knobs") -> Any:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


KNOBS = [knob for area in script().read_areas() for knob in area.knobs]


def test_the_pages_are_what_the_script_writes() -> None:
    for name, page in script().pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, "run: python docs/knobs.py"


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.names[0])
def test_each_knob_has_a_key_that_exists_or_says_what_is_done_instead(knob: Any) -> None:
    for key in knob.keys:
        assert field_of(key.split(".")) is not None, key
    assert knob.keys or (knob.en and knob.zh)
    assert bool(knob.en) == bool(knob.zh)
    assert set(knob.tutorials) <= set("01234")


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.names[0])
def test_each_knob_has_a_default_help_and_a_test(knob: Any) -> None:
    for key in knob.keys:
        field = field_of(key.split("."))
        assert field.description, f"{key} has no help"
        assert not field.is_required() or key == "data.train"
    files = {node.partition("::")[0] for node in knob.tests}
    texts = {name: (ROOT / "tests" / name).read_text(encoding="utf-8") for name in files}
    for node in knob.tests:
        name, _, function = node.partition("::")
        assert re.search(rf"^def {function}\(", texts[name], re.MULTILINE), node
    assert knob.tests
    for leaf in (key.rpartition(".")[2] for key in knob.keys):
        assert any(re.search(rf"\b{leaf}\b", text) for text in texts.values()), f"no test there knows {leaf}"


def known() -> set[str]:
    return {name for knob in KNOBS for name in knob.names}


def test_the_inventory_is_complete() -> None:
    assert not set(INVENTORY.split()) - known()


@pytest.mark.parametrize("number", range(5))
def test_every_argument_that_a_tutorial_sets_is_in_the_table(number: int) -> None:
    found = sorted(TUTORIALS.glob(f"{number:03}_*.txt"))
    if not found:
        pytest.skip("the tutorials' texts are not here")
    arguments = {name for call in calls(found[0].read_text(encoding="utf-8")) for name in keywords(call)}
    assert arguments, "the tutorial has code"
    assert not arguments - known()


def calls(text: str) -> list[str]:
    """What stands between the parentheses of every call of the libraries that are configured."""
    out: list[str] = []
    for match in re.finditer(rf"\b(?:{'|'.join(CALLS.split())})\(", text):
        depth, at = 1, match.end()
        while depth and at < len(text):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        out.append(text[match.end() : at - 1])
    return out


def keywords(call: str) -> set[str]:
    """Names before a single equals sign; those in comments too, a tutorial means them as well."""
    return set(re.findall(r"(?:^|[(,#\s])([A-Za-z_]\w*)\s*=(?!=)", call, re.MULTILINE))
