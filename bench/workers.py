"""The measured side: does one job in this process.

``python bench/workers.py JOB.json RESULT.json`` is what `common.run_all` calls. All who train get the same
examples, from one prepared file, in the same order, and start from the same adapter.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from common import Job, Result
from memory import planned
from sapwood.config.file import parse_config
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.types import Base, BaseSpec, Example, Stepped

RANK, ALPHA, LR, SEED = 8, 32, 1e-4, 0
MEDIUM = {"num_hidden_layers": 12, "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16,
          "num_key_value_heads": 8, "head_dim": 64}  # fmt: skip
OF_7B = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32,
         "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32_000}  # fmt: skip
OF_1_5B = {"num_hidden_layers": 28, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
           "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 151_936}  # fmt: skip
SIZES: dict[str, dict[str, int]] = {"tiny": {}, "medium": MEDIUM, "7b": OF_7B, "1.5b": OF_1_5B}


def main() -> None:
    todo, done = (Path(name) for name in sys.argv[1:3])
    job = Job(**json.loads(todo.read_text(encoding="utf-8")))
    done.write_text(json.dumps(work_off(job)), encoding="utf-8")


def work_off(job: Job) -> Result:
    """What the job's function finds, or its error: the other jobs go on, and the table shows what failed."""
    started = time.monotonic()
    try:
        with redirect_stdout(sys.stderr):  # Trainer prints a line a step; stdout is for the table
            found = WORK[job.who](job)
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    return found | {"name": job.name, "who": job.who, "note": job.note, "wall": time.monotonic() - started}


# --- what all of them use ---------------------------------------------------------------------------------


def examples_file(job: Job) -> Path:
    return Path(job.folder) / f"{job.examples}.safetensors"


def load_examples(job: Job) -> Sequence[Example]:
    from sapwood.prepare.cache import unpack_examples

    return unpack_examples(examples_file(job).read_bytes(), examples_file(job))


def model_source(job: Job) -> str:
    """The job's base; ``tiny`` and ``medium`` are random models, made in the job's folder."""
    if job.model not in SIZES:
        return job.model
    from tests.base.tiny import tiny_llama

    folder = Path(job.folder) / job.model
    path = folder / "tiny-llama"
    return str(path if path.is_dir() else tiny_llama(folder, **SIZES[job.model]))


def open_base(job: Job) -> Base:
    from sapwood.base.inspect import inspect_base
    from sapwood.base.load import load_base, move
    from sapwood.machine.device import device_for

    settings = BaseConfig.model_validate({"model": model_source(job), "storage": job.storage})
    base = load_base(inspect_base(settings), settings, device_for(job.device))
    move(base.model, base.device)
    return base


def settings_of(job: Job) -> RunConfig:
    """The job as a sapwood config. Peers take the order and the hyperparameters from it too."""
    return parse_config(
        {
            "data": {"train": job.data or "prepared"},
            "pack": {"length": job.pack_length},
            "lora": {"rank": RANK, "alpha": ALPHA, "dropout": job.dropout},
            "train": {"batch_size": job.batch, "max_steps": job.steps, "lr": LR, "warmup": 0, "seed": SEED},
        }
    )


def peak_rss() -> int:
    """Bytes. Not ru_maxrss if it can be helped: Linux hands the parent's peak on to it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measured(
    job: Job, storage: str, seconds: Sequence[float], losses: Sequence[float], counts: Sequence[Sequence[int]]
) -> Result:
    """``counts``: (examples, tokens, targets) of each step."""
    import torch

    from sapwood.machine.device import device_for

    return {
        "storage": storage,
        "threads": torch.get_num_threads(),
        "seconds": list(seconds),
        "losses": [float(loss) for loss in losses],
        "examples": [count[0] for count in counts],
        "tokens": [count[1] for count in counts],
        "targets": [count[2] for count in counts],
        "peak_bytes": peak_rss() if job.device == "cpu" else device_for(job.device).peak_bytes(),
    }


def counted(examples: Sequence[Example]) -> tuple[int, int, int]:
    return len(examples), sum(map(len, examples)), sum(example.num_targets for example in examples)


def by_step(examples: Sequence[Example], batch: int) -> list[tuple[int, int, int]]:
    return [counted(examples[at : at + batch]) for at in range(0, len(examples), batch)]


# --- examples ---------------------------------------------------------------------------------------------


def prepare(job: Job) -> Result:
    """Write the examples: rows of a file under the chat template, or, with ``sizes``, made ones of exact
    length."""
    from sapwood.base.inspect import inspect_base
    from sapwood.prepare.cache import pack_examples

    spec = inspect_base(BaseConfig(model=model_source(job)))
    examples = made_examples(job, spec) if job.sizes else row_examples(job, spec)
    examples_file(job).write_bytes(pack_examples(examples))
    rows, tokens, targets = counted(examples)
    return {"rows": rows, "tokens": tokens, "targets": targets}


def row_examples(job: Job, spec: BaseSpec) -> Sequence[Example]:
    from sapwood.data.formats import read_conversations
    from sapwood.prepare.report import prepare
    from sapwood.prepare.study import make_renderer

    config = parse_config(
        {"data": {"train": job.data, "system": job.system}, "pack": {"length": job.pack_length}}
    )
    conversations = list(islice(read_conversations(config.data), job.rows))
    if len(conversations) < job.rows:
        raise ValueError(f"{job.data} holds {len(conversations)} rows, {job.rows} are wanted")
    rows = spec.hf_config.get_text_config().vocab_size
    renderer = make_renderer(spec, config)
    prepared = prepare(conversations, renderer, config.template, max_length=job.pack_length, vocab_rows=rows)
    return prepared.examples


def made_examples(job: Job, spec: BaseSpec) -> list[Example]:
    """``rows`` examples of ``sizes`` = (shared, own, answer) tokens of real text: the first are common to
    all, the last are learnt."""
    import numpy as np

    from sapwood.data.files.sources import read_rows
    from sapwood.types import RowId

    text = "\n".join(" ".join(row.value.values()) for row in read_rows(["builtin:nursery"]))
    stream = np.array(spec.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    shared, own, answer = job.sizes
    examples: list[Example] = []
    for index in range(job.rows):
        start = shared + 1 + index * 61  # somewhere else in the text for each
        ids = np.concatenate(
            [stream[:shared], np.take(stream, range(start, start + own + answer), mode="wrap")]
        )
        trained = np.zeros(len(ids), np.bool_)
        trained[-answer:] = True
        examples.append(Example(RowId("made", index), ids, trained))
    return examples


# --- who trains -------------------------------------------------------------------------------------------


def ours(job: Job) -> Result:
    """sapwood's own training loop, as `sapwood train` runs it."""
    from sapwood.adapter.attach import attach_lora
    from sapwood.base.load import move
    from sapwood.train.loop import pack_examples, train
    from sapwood.train.optim import new_state
    from sapwood.train.schedule import Cursor, members, plan_steps
    from sapwood.types import TrainData

    config, examples = settings_of(job), load_examples(job)
    base = open_base(job)
    model = attach_lora(base, config.lora, SEED)
    move(model.peft, base.device)
    if job.checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    state = new_state(model.parameters, config.train)
    seconds: list[float] = []
    events: list[Stepped] = []
    with profile_of(("NativeAttention", "Rotated", "SegmentAttention"), job.profiled) as attention:
        tick = time.perf_counter()
        for event in train(model, TrainData(examples), state, config):
            if isinstance(event, Stepped):
                now = time.perf_counter()
                seconds.append(now - tick)
                tick = now
                events.append(event)
    counts = [(event.num_examples, event.num_tokens, event.num_targets) for event in events]
    result = measured(job, base.storage, seconds, [event.loss for event in events], counts)
    computed: list[int] = []
    cursor, schedule = Cursor(), plan_steps(len(examples), config.train)
    for _ in events:
        chosen, cursor = members(schedule, SEED, cursor)
        computed.append(sum(len(pack.ids) for pack in pack_examples([examples[i] for i in chosen], config)))
    return result | {"computed": computed, "attention": attention}


@contextmanager
def profile_of(functions: Sequence[str], wanted: bool) -> Generator[dict[str, float]]:
    """Seconds by torch's profiler: of autograd functions with these names, forward and backward, and of all
    operations. A function's own kernels count; operations that it calls count once, as themselves."""
    found: dict[str, float] = {}
    if not wanted:
        yield found
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        yield found
    told = [(event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages()]
    found |= {name: sum(seconds for key, seconds in told if key.startswith(name)) for name in functions}
    found["all"] = sum(seconds for _, seconds in told)


def with_peft(job: Job, base: Base) -> Any:
    """PEFT's own adapter on the plain transformers model, on the layers that sapwood would take."""
    import torch
    from peft import LoraConfig, get_peft_model

    from sapwood.adapter.places.targets import resolve_targets

    settings = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=job.dropout,
        target_modules=list(resolve_targets(base.model, "all-linear")),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = get_peft_model(base.model, settings, autocast_adapter_dtype=not job.bf16_adapter)
    if job.checkpointing:
        model.enable_input_require_grads()
    return model


def shared_arguments(job: Job) -> dict[str, Any]:
    """What Trainer and SFTTrainer are both told. Nothing is saved, evaluated or sent while time runs."""
    return {
        "output_dir": job.folder,
        "per_device_train_batch_size": job.micro,
        "gradient_accumulation_steps": job.batch // job.micro,
        "max_steps": job.steps,
        "learning_rate": LR,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": job.checkpointing,
        "bf16": job.autocast,
        "torch_compile": job.fused,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": job.device == "cpu",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
    }


def labelled(examples: Sequence[Example]) -> list[dict[str, list[int]]]:
    """Rows as the tutorials make them: labels are the ids, and -100 where nothing is learnt."""
    return [
        {
            "input_ids": example.ids.tolist(),
            "attention_mask": [1] * len(example),
            "labels": [
                int(i) if learnt else -100 for i, learnt in zip(example.ids, example.trained, strict=True)
            ],
        }
        for example in examples
    ]


def timed(trainer: Any) -> tuple[list[float], list[float]]:
    """Run it; (seconds, losses) of the optimizer steps. The first step starts with the loop, as ours does."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [b - a for a, b in pairwise(marks)], losses


def trainer(job: Job) -> Result:
    """transformers' Trainer with PEFT and the tutorials' collator."""
    from tests.parity.trainer import in_training_order
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    examples = in_training_order(load_examples(job), settings_of(job), job.steps)
    base = open_base(job)
    base.model.config.use_cache = False  # the loss needs no cache: it would only cost
    work = Trainer(
        model=with_peft(job, base),
        args=TrainingArguments(**shared_arguments(job)),
        train_dataset=labelled(examples),  # type: ignore[arg-type]
        data_collator=DataCollatorForSeq2Seq(tokenizer=_padding(base.spec.tokenizer), padding=True),
    )
    seconds, losses = timed(work)
    return measured(job, base.storage, seconds, losses, by_step(examples, job.batch))


def _padding(tokenizer: Any) -> Any:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trl(job: Job) -> Result:
    """TRL's SFTTrainer on the same tokens. Packed, it makes steps of its own out of them."""
    from datasets import Dataset, disable_progress_bars
    from tests.parity.trainer import in_training_order
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    examples = in_training_order(load_examples(job), settings_of(job), job.steps)
    rows = Dataset.from_list(
        [{key: row[key] for key in ("input_ids", "labels")} for row in labelled(examples)]
    )
    told = shared_arguments(job)
    if job.packing:
        from trl.data_utils import pack_dataset

        packs = len(pack_dataset(rows, job.pack_length, "bfd"))
        told["gradient_accumulation_steps"] = -(-packs // job.steps)
    base = open_base(job)
    base.model.config.use_cache = False
    work = SFTTrainer(
        model=with_peft(job, base),
        args=SFTConfig(
            **told,
            packing=job.packing,
            padding_free=job.padding_free,
            max_length=job.pack_length if job.packing else None,
        ),
        train_dataset=rows,
        processing_class=_padding(base.spec.tokenizer),
    )
    if job.packing:
        counts = _packed_counts(work.train_dataset, told["gradient_accumulation_steps"])
    else:
        counts = by_step(examples, job.batch)
    seconds, losses = timed(work)
    return measured(job, base.storage, seconds, losses, counts)


def _packed_counts(dataset: Any, packs_per_step: int) -> list[tuple[int, int, int]]:
    counts: list[tuple[int, int, int]] = []
    for at in range(0, len(dataset), packs_per_step):
        packs = [dataset[i] for i in range(at, min(at + packs_per_step, len(dataset)))]
        counts.append(
            (
                sum(len(pack["seq_lengths"]) for pack in packs),
                sum(len(pack["input_ids"]) for pack in packs),
                sum(label != -100 for pack in packs for label in pack["labels"]),
            )
        )
    return counts


def trainer_parity(job: Job) -> Result:
    """Trainer + PEFT as the parity tests set it up: from our starting adapter, one example at a time."""
    from tests.parity.trainer import in_training_order, trainer_losses

    from sapwood.adapter.attach import attach_lora

    config = settings_of(job)
    examples = in_training_order(load_examples(job), config, job.steps)
    start = attach_lora(open_base(job), config.lora, SEED)
    base = open_base(job)
    tick = time.perf_counter()
    losses = trainer_losses(base.model, start, examples, config, job.steps)
    each = (time.perf_counter() - tick) / job.steps
    return measured(job, base.storage, [each] * job.steps, losses, by_step(examples, job.batch))


def quality(job: Job) -> Result:
    """A whole run of sapwood, as `sapwood demo` makes it: held-out loss before and after, and its seconds."""
    from sapwood.pipeline import finetune
    from sapwood.types import Evaluated

    events: list[Stepped | Evaluated] = []
    config = parse_config(
        {
            "base": {"model": model_source(job), "storage": job.storage},
            "data": {"train": "builtin:nursery", "eval": job.eval_rows},
            "pack": {"length": 512},
            "lora": {"rank": RANK, "alpha": ALPHA, "dropout": job.dropout},
            "train": {"batch_size": job.batch, "max_steps": job.steps, "lr": 5e-4, "seed": SEED},
            "eval": {"samples": 0, "every": job.steps},
            "save": {"dir": job.folder},
        }
    )
    finetune(config, lambda event: events.append(event) if isinstance(event, Stepped | Evaluated) else None)
    steps = [event for event in events if isinstance(event, Stepped)]
    held_out = [event.loss for event in events if isinstance(event, Evaluated)]
    counts = [(event.num_examples, event.num_tokens, event.num_targets) for event in steps]
    found = measured(job, job.storage, [e.seconds for e in steps], [e.loss for e in steps], counts)
    return found | {"held_out": held_out}


# --- the machine's limit ----------------------------------------------------------------------------------


def rate(job: Job) -> Result:
    """Highest rate of matrix products here, and what the job's model has to multiply, from its shapes.

    Measured are the products of a pack through each linear of the model, forward (x W^T) and backward (g W),
    in the proportion in which the model has them, and one large square product. The best times count: others
    on the machine only add to them.
    """
    from collections import Counter

    import torch

    from sapwood.base.inspect import inspect_base, skeleton

    model = skeleton(inspect_base(BaseConfig(model=model_source(job))))
    head = model.get_output_embeddings()
    shapes = Counter(
        tuple(module.weight.shape)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job.storage]
    best = partial(_best, seconds=0.05 if job.model == "tiny" else 0.5)
    work, seconds = 0, 0.0
    for (out, into), count in shapes.items():
        x, g = torch.randn(job.pack_length, into, dtype=dtype), torch.randn(job.pack_length, out, dtype=dtype)
        weight = torch.randn(out, into, dtype=dtype)
        work += count * 4 * job.pack_length * out * into
        seconds += count * (best(lambda x=x, w=weight: x @ w.T) + best(lambda g=g, w=weight: g @ w))
    side = 512 if job.model == "tiny" else 2048
    square = torch.randn(side, side, dtype=dtype)
    rates = {"model_shapes": work / seconds, "square": 2 * side**3 / best(lambda: square @ square)}
    linear = sum(out * into * count for (out, into), count in shapes.items())
    text = model.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return {
        "storage": job.storage,
        "threads": torch.get_num_threads(),
        "flops_per_s": rates,
        "linear": linear,
        "head": head.weight.numel(),
        "layers": text.num_hidden_layers,
        "attention_width": text.num_attention_heads * width,
    }


def _best(product: Callable[[], Any], seconds: float) -> float:
    for _ in range(3):  # kernels are chosen and prepared at first use
        product()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < until and len(times) < 50):
        tick = time.perf_counter()
        product()
        times.append(time.perf_counter() - tick)
    return min(times)


WORK: dict[str, Callable[[Job], Result]] = {
    "prepare": prepare,
    "ours": ours,
    "trainer": trainer,
    "trl": trl,
    "trainer-parity": trainer_parity,
    "rate": rate,
    "memory": planned,
    "quality": quality,
}

if __name__ == "__main__":
    main()
