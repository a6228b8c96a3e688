"""What other programs call our keys, and what a mistyped key meant: by meaning first, then by letters.

The names of PEFT, TRL, transformers and the tutorials lie in ``assets/knobs.json``, which docs/knobs.py
writes from docs/knobs.yaml. `MEANT` wins over that file: as a key of a config, a name has a narrower meaning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

# Key -> names of other trainers (axolotl, LLaMA-Factory, unsloth, MLX, OpenAI) and plain words for it.
MEANT = {
    "base.model": """base base_model model model_name model_name_or_path model_id checkpoint
        pretrained_model pretrained_model_name_or_path llm""",
    "base.storage": """quantization quantize quant bits load_in_8bit quantization_bit quant_method precision
        dtype fp32 half""",
    "base.device_map": "device gpu gpus cuda use_cpu no_cuda",
    "base.new_tokens": "additional_special_tokens special_tokens add_tokens tokens added_tokens",
    "data.train": """dataset datasets train_file train_data training_data data_path dataset_path dataset_name
        data_file data_files file path""",
    "data.eval": """eval_dataset eval_file eval_data validation validation_split val_set_size val_size
        test_size valid test_split""",
    "data.columns": "column mapping field_mapping dataset_text_field prompt_column response_column fields",
    "data.system": "system_prompt system_message default_system",
    "data.weights": "mix interleave_probs sampling_weights probabilities",
    "template.name": "chat_template prompt_template conversation_template prompt_format",
    "template.train_on": """train_on_inputs train_on_prompt mask_prompt mask_history completion_only_loss
        assistant_only_loss response_template train_on_responses_only roles_to_train""",
    "template.overlong": "truncation truncation_side overflow",
    "pack.length": """max_length max_seq_len max_seq_length sequence_len seq_length seq_len cutoff_len
        cutoff block_size context_length model_max_length max_tokens""",
    "pack.share_prefixes": "packing sample_packing group_by_length",
    "lora.method": "peft_type finetuning_type adapter method use_dora use_rslora init_lora_weights peft",
    "lora.rank": "r lora_r lora_rank rank",
    "lora.alpha": "lora_alpha alpha scale scaling",
    "lora.dropout": "lora_dropout",
    "lora.targets": """target_modules lora_target lora_target_modules lora_target_linear modules_to_save
        target_layers target""",
    "lora.start_from": """from continue adapter_name_or_path adapter_to_resume resume_adapter_file
        lora_model_dir load_adapter""",
    "lora.b_ratio": "loraplus_lr_ratio loraplus_ratio lora_plus_ratio",
    "lora.virtual_tokens": "num_virtual_tokens prompt_tuning prefix_length pre_seq_len",
    "train.lr": "learning_rate lr learning_rate_multiplier",
    "train.epochs": "num_train_epochs num_epochs n_epochs epoch epochs passes",
    "train.max_steps": "max_steps steps iters num_steps total_steps max_iters",
    "train.batch_size": "gradient_accumulation_steps grad_accum accumulation global_batch_size batch bs",
    "train.micro_batch": """per_device_train_batch_size micro_batch_size micro_batch train_batch_size
        per_gpu_train_batch_size""",
    "train.optimizer": "optim optimizer optimiser",
    "train.schedule": "lr_scheduler_type lr_scheduler scheduler lr_schedule scheduler_type",
    "train.warmup": "warmup_ratio warmup_steps num_warmup_steps warm_up",
    "train.weight_decay": "wd decay",
    "train.max_grad_norm": "gradient_clipping grad_clip clip max_gradient_norm clip_grad",
    "train.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing recompute",
    "train.neftune": "neftune_noise_alpha noisy_embedding_alpha",
    "train.seed": "random_seed random_state data_seed",
    "train.shard": "deepspeed fsdp zero zero_stage num_processes world_size",
    "train.threads": "num_threads cpu_threads",
    "eval.every": """eval_steps evaluation_steps eval_strategy evaluation_strategy steps_per_eval
        evals_per_epoch""",
    "eval.samples": "num_samples generate_samples",
    "eval.patience": "early_stopping early_stopping_patience",
    "save.every": "save_steps save_strategy checkpoint_every steps_per_save save_freq saves_per_epoch",
    "save.keep": "save_total_limit max_checkpoints",
    "save.adapter": "load_best_model_at_end best_model",
    "save.dir": "output_dir output out_dir adapter_path save_path runs output_path",
    "name": "run_name experiment experiment_name",
    "track.to": "report_to wandb swanlab tensorboard logger log_with tracker use_wandb use_swanlab",
    "track.project": "wandb_project swanlab_project project_name",
    "track.mode": "swanlab_mode wandb_mode",
    "track.every": "logging_steps log_every log_interval steps_per_report log_every_n_steps",
}
ALIKE = 0.75  # share of equal letters from which on another key was probably meant
Knob = tuple[list[str], str]


def sections_of(config: Any) -> dict[str, Any]:
    """The classes of a config's sections, by the key of each. ``config``: the class of the whole."""
    kinds = {name: field.annotation for name, field in config.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if hasattr(kind, "model_fields")}


def nearest(parts: Sequence[str], config: Any) -> str:
    """What to write in place of an unknown key: our key of that name in another section; our key for another
    program's name; a key that is spelt alike; or else the keys that are valid here."""
    *outer, key = [part for whole in parts for part in whole.split(".")]
    here = sections_of(config).get(outer[0]) if outer else None
    names = list(here.model_fields) if here is not None else list(config.model_fields)
    prefix = f"{outer[0]}." if here is not None else ""
    if len(parts) == 1 and "." in parts[0] and here is not None and key in names:
        return f"in a file a section is a level of its own: {outer[0]}: {{{key}: VALUE}}"
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.85):
        return f"did you mean {prefix}{near[0]}?"
    own = own_places(config)
    return by_meaning(key, own) or _by_letters(key, names, prefix, own) or f"valid here: {', '.join(names)}"


def by_meaning(name: str, own: Mapping[str, str]) -> str | None:
    """Our answer to a name of ours in the wrong place, or of another program; None if nobody knows it.
    ``own``: `own_places`."""
    word = _plain(name)
    if word in own:
        return f"did you mean {own[word]}?"
    keys, note = _knobs().get(word, ([], ""))
    meant = _meant().get(word, keys)
    if meant != keys and not set(meant) & set(keys):
        keys, note = meant, ""
    if keys:
        return f"here it is {' or '.join(keys)}" + (f": {note}" if note else "")
    return f"sapwood has no key for it: {note}" if note else None


def _by_letters(key: str, names: Sequence[str], prefix: str, own: Mapping[str, str]) -> str | None:
    if near := difflib.get_close_matches(key, names, n=1, cutoff=ALIKE):
        return f"did you mean {prefix}{near[0]}?"
    near = difflib.get_close_matches(_plain(key), [*own, *_meant(), *_knobs()], n=1, cutoff=ALIKE)
    return by_meaning(near[0], own) if near else None


@cache
def own_places(config: Any) -> dict[str, str]:
    """Each key's name by itself -> its key path. Names that stand in several sections are left out."""
    found: dict[str, list[str]] = {}
    for section, kind in sections_of(config).items():
        for key in kind.model_fields:
            found.setdefault(key, []).append(f"{section}.{key}")
    return {key: places[0] for key, places in found.items() if len(places) == 1}


@cache
def _meant() -> dict[str, list[str]]:
    return {_plain(word): [key] for key, words in MEANT.items() for word in words.split()}


@cache
def _knobs() -> dict[str, Knob]:
    """Other programs' names -> our keys (none if sapwood does without), and what to know."""
    text = (files("sapwood") / "assets" / "knobs.json").read_text(encoding="utf-8")
    return {_plain(name): (keys, note) for name, (keys, note) in json.loads(text).items()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
