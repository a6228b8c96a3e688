"""transformers' Trainer with PEFT, as a person would set it up by hand, on examples in a given order."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sapwood.adapter.model import LoraModel, adapter_tensors
from sapwood.config.sections import RunConfig
from sapwood.train.schedule import Cursor, members, plan_steps
from sapwood.types import Example


def in_training_order(examples: Sequence[Example], config: RunConfig, steps: int) -> list[Example]:
    """The examples of the first ``steps`` optimizer steps of a run, one after the other."""
    schedule = plan_steps(len(examples), config.train)
    cursor, out = Cursor(), list[Example]()
    for _ in range(steps):
        chosen, cursor = members(schedule, config.train.seed, cursor)
        out += [examples[i] for i in chosen]
    return out


def trainer_losses(
    network: Any, start: LoraModel, examples: Sequence[Example], config: RunConfig, steps: int
) -> list[float]:
    """Losses of ``steps`` optimizer steps over ``examples`` in order, by Trainer + PEFT in fp32, one example
    at a time accumulated to the batch.

    Args:
        network: the plain transformers model, without adapter.
        start: a model whose adapter gives the starting weights.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    settings = LoraConfig(
        r=config.lora.rank,
        lora_alpha=int(config.lora.alpha),
        lora_dropout=config.lora.dropout,
        target_modules=list(start.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(network, settings)
    begin = adapter_tensors(start)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(begin[name.replace(".default.", ".")])

    rows = [
        {
            "input_ids": torch.from_numpy(example.ids).long(),
            "attention_mask": torch.ones(len(example), dtype=torch.int64),
            "labels": torch.from_numpy(example.ids)
            .long()
            .masked_fill(~torch.from_numpy(example.trained), -100),
        }
        for example in examples
    ]

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> torch.utils.data.SequentialSampler:
            return torch.utils.data.SequentialSampler(rows)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=str(Path(folder)),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=config.train.batch_size,
            learning_rate=config.train.lr,
            lr_scheduler_type=config.train.schedule,
            warmup_steps=0,
            max_steps=steps,
            weight_decay=config.train.weight_decay,
            max_grad_norm=config.train.max_grad_norm,
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda batch: {name: tensor[None] for name, tensor in batch[0].items()},
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
