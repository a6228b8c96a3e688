"""What a script is given from outside; what its training arguments are if nothing gives them."""

from __future__ import annotations

from typing import Any

PARSED = "command line"  # Call.inside of arguments that a parser makes
# Call.lines has the line that a value was given on, if it comes from an option or a config: the first
# argument's by this name; a keyword's own line is then under this and its name.
FIRST = "\0"
SHARED = "\0shared"  # Call.attrs: another class may have its arguments, of which nothing is known
COMMANDED = "command line that is known"
UNSET: dict[str, Any] = {  # training arguments that a command line needn't name
    "fp16": False, "bf16": False, "seed": 42, "local_rank": -1, "do_train": False, "do_eval": False,
    "do_predict": False, "gradient_checkpointing": False, "deepspeed": None, "fsdp": "", "max_steps": -1,
    "resume_from_checkpoint": None, "eval_strategy": "no", "evaluation_strategy": "no", "push_to_hub": False,
    "num_train_epochs": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5, "load_best_model_at_end": False, "remove_unused_columns": True,
}  # fmt: skip
SLICE = "slice"  # Call.name of ``rows[a:b]``
_READ = {"read_json", "read_csv", "read_excel", "read_parquet", "read_table", "load_dataset",
         "load_from_disk", "from_json", "from_csv", "from_parquet", "from_text"}  # fmt: skip
UNSET_MODEL: dict[str, Any] = {  # the same of trl's ModelConfig
    "use_peft": False, "load_in_4bit": False, "load_in_8bit": False, "use_dora": False, "use_rslora": False,
}  # fmt: skip


def reads_rows(name: str) -> bool:
    """Whether a call of that name reads rows from a file or a hub."""
    return name.rpartition(".")[2] in _READ or name in ("json.load", "json.loads")


def sets_training(name: str) -> bool:
    """Whether a class of that name holds training arguments."""
    return name.rpartition(".")[2] in ("TrainingArguments", "Seq2SeqTrainingArguments", "SFTConfig")
