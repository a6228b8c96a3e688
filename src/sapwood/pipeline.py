"""The page everyone reads first: one config in, one adapter out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sapwood.adapter import ADAPTER_DIR, load_adapter, save_adapter
from sapwood.config import RunConfig, dump_config, load_config
from sapwood.errors import SapwoodError, Stopped, StorageError
from sapwood.model.base import load_base
from sapwood.model.lora import LoraModel, attach_lora
from sapwood.model.machine import fastest_dtype
from sapwood.serve.probe import answer_probes
from sapwood.signals import stop_signals
from sapwood.study import DATA, Study, load_study, save_study, study_config
from sapwood.track.store import RunStore, open_run, reopen_run
from sapwood.train.checkpoint import load_checkpoint, newest_good, save_checkpoint
from sapwood.train.loop import Sampler, train
from sapwood.train.optim import TrainState, new_state
from sapwood.train.schedule import plan_steps
from sapwood.types import Adapter, Event, Stepped

Watcher = Callable[[Event], None]


def finetune(config: RunConfig, watch: Watcher | None = None) -> Adapter:
    """Train an adapter as ``config`` says, in a new run directory below ``config.save.dir``.

    Data is prepared and proved before any weight is loaded, so a bad row costs seconds. ``watch`` sees every
    event after it is recorded. Raises a child of SapwoodError; `Stopped` when a signal asked for it
    (resumable).
    """
    return train_study(config, study_config(config), watch)


def train_study(config: RunConfig, study: Study, watch: Watcher | None = None) -> Adapter:
    """`finetune`, for a caller that has shown the study to somebody first."""
    config = with_storage(config)
    steps = plan_steps(len(study.data.train), config.train).total_steps
    facts = {**study.facts, "total_steps": steps, "machine": fastest_dtype()[1]}
    with open_run(
        Path(config.save.dir), name=config.name, config_yaml=dump_config(config), facts=facts
    ) as run:
        save_study(run.path / DATA, study)
        return train_run(run, config, study, watch)


def with_storage(config: RunConfig) -> RunConfig:
    """``auto`` as what it means on this machine: a resumed run must not measure again and find otherwise."""
    if config.base.storage != "auto":
        return config
    storage = fastest_dtype()[1]["dtype"]
    return config.model_copy(update={"base": config.base.model_copy(update={"storage": storage})})


def resume(path: Path, watch: Watcher | None = None) -> Adapter:
    """Go on with an interrupted run. On the same machine the adapter is, bit for bit, the one that an
    undisturbed run would have given. A finished run is returned as it is."""
    with reopen_run(path) as run:
        if (path / ADAPTER_DIR).is_dir():
            return load_adapter(path / ADAPTER_DIR)
        config = load_config(path / "config.yaml")
        return train_run(run, config, load_study(path / DATA, config), watch)


def train_run(run: RunStore, config: RunConfig, study: Study, watch: Watcher | None) -> Adapter:
    """From the newest checkpoint, or from the start, to the adapter."""
    with status_of(run), stop_signals() as stop:
        base = load_base(study.spec, config.base)
        model = attach_lora(base, config.lora, config.train.seed)
        state = start_or_resume(run, model, config)
        for event in train(model, study.data, state, config, sampler_of(model, study, config)):
            run.record(event)
            if watch is not None:
                watch(event)
            if isinstance(event, Stepped) and (stop or checkpoint_due(event, study, config)):
                length = run.events_length()
                save_checkpoint(run.path, model, state, keep=config.save.keep, events_length=length)
            if stop and isinstance(event, Stepped):
                raise Stopped(
                    f"stopped after step {state.step}, saved",
                    str(run.path),
                    mend=f"sapwood resume {run.path}",
                )
        return save_adapter(run.path, model, base, study, config)


def start_or_resume(run: RunStore, model: LoraModel, config: RunConfig) -> TrainState:
    """A fresh state, or that of the newest checkpoint that verifies."""
    state = new_state(model.parameters, config.train)
    checkpoint, notes = newest_good(run.path)
    for text in notes:
        run.note("note", 0, text=text)
    if checkpoint is not None:
        run.truncate_events(load_checkpoint(checkpoint, model, state))
    elif notes:
        raise StorageError(
            "no checkpoint of this run verifies",
            str(run.path),
            "; ".join(notes),
            "start a new run from its config.yaml",
        )
    else:
        run.truncate_events(0)
    return state


def sampler_of(model: LoraModel, study: Study, config: RunConfig) -> Sampler | None:
    """Answers to the run's probes by the model as it stands."""
    if not study.probes:
        return None
    tokenizer, stop_ids = study.spec.tokenizer, study.renderer.stop_ids
    return lambda: answer_probes(model.peft, tokenizer, study.probes, stop_ids, config.eval.max_new_tokens)


def checkpoint_due(event: Stepped, study: Study, config: RunConfig) -> bool:
    last = plan_steps(len(study.data.train), config.train).total_steps
    return event.step % config.save.every == 0 or event.step == last


@contextmanager
def status_of(run: RunStore) -> Generator[None]:
    """Keep status.json true: running, then finished, stopped or failed."""
    run.set_status("running")
    try:
        yield
    except Stopped:
        run.set_status("stopped")
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, SapwoodError) else f"{type(error).__name__}: {error}"
        run.set_status("failed", reason=reason)
        raise
    run.set_status("finished")
