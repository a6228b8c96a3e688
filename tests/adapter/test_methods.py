"""Every method: it trains, a run that was stopped ends with the same bytes, a checkpoint and the finished
adapter can be talked to, and plain PEFT on the original base gives the same logits."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from sapwood import finetune, resume
from sapwood.adapter.files import read_tensors
from sapwood.adapter.methods import trained_numbers
from sapwood.base.inspect import inspect_base, on_meta
from sapwood.base.load import load_base
from sapwood.config.doubts import doubts
from sapwood.config.file import parse_config
from sapwood.config.kinds import Method
from sapwood.config.sections import BaseConfig, LoraConfig, RunConfig
from sapwood.errors import ConfigError, Stopped
from sapwood.run.query import find_run
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import Loaded, open_target
from sapwood.types import Evaluated, Event, Stepped
from tests.base.tiny import tiny_llama
from tests.test_pipeline import adapter_hashes, make_config

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
PROMPTS = [[5, 80, 300, 41, 17], [7, 9]]
CASES: dict[str, dict[str, Any]] = {
    **{method: {"lora": {"method": method, "virtual_tokens": 5}} for method in get_args(Method)},
    "loftq": {"lora": {"method": "loftq"}, "base": {"storage": "nf4", "compute_dtype": "fp32"}},
    "bias": {"lora": {"bias": "all"}},
    "neftune": {"train": {"neftune": 5.0, "micro_batch": 1}},
    "adamw-8bit": {"train": {"optimizer": "adamw-8bit"}},
    "adafactor": {"train": {"optimizer": "adafactor"}},
    "lion": {"train": {"optimizer": "lion", "lr": 1e-3}},
    "sgd": {"train": {"optimizer": "sgd", "lr": 1.0}},
}
METHODS = [*get_args(Method), "bias"]  # an optimizer changes nothing of what is saved and opened


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: its folder, its config and what it told."""

    run: Path
    config: RunConfig
    events: list[Event]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the one model and the one file of rows."""
    folder = tmp_path_factory.mktemp("methods")
    tiny_llama(folder, attention_bias=True)
    make_config(folder)
    return folder


def configured(place: Path, case: str, **save: Any) -> RunConfig:
    tree = make_config(place).model_dump(mode="json")
    for section, keys in {**CASES[case], "save": save}.items():
        tree[section] |= keys
    return parse_config(tree)


@pytest.fixture(scope="module")
def trained(place: Path) -> Callable[[str], Trained]:
    done: dict[str, Trained] = {}

    def train(case: str) -> Trained:
        if case not in done:
            events: list[Event] = []
            config = configured(place, case, dir=str(place / "runs" / case))
            done[case] = Trained(finetune(config, events.append).path.parent, config, events)
        return done[case]

    return train


def stop_after(step: int, event: Event) -> None:
    if isinstance(event, Stepped) and event.step == step:
        os.kill(os.getpid(), signal.SIGTERM)


def logits(network: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=torch.tensor([ids])).logits[0]


def answers(loaded: Loaded, network: Any = None) -> list[tuple[int, ...]]:
    """Greedy tokens of what was opened, or of another ``network``, in a batch of two lengths."""
    network = loaded.network if network is None else network
    found = answer_batch(network, loaded.tokenizer, PROMPTS, (), Settings(max_new_tokens=6))
    return [answer.ids for answer in found]


@pytest.mark.parametrize("case", CASES)
def test_it_learns(case: str, trained: Callable[[str], Trained]) -> None:
    losses = [event.loss for event in trained(case).events if isinstance(event, Evaluated)]
    # IA3 and a short prefix learn little in six steps; the loss on what is learnt falls all the same
    steps = [event.loss for event in trained(case).events if isinstance(event, Stepped)]
    assert losses[-1] < losses[0] or min(steps[3:]) < steps[0], (losses, steps)


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_it_ends_with_the_same_bytes(
    case: str, place: Path, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        finetune(configured(place, case, dir=str(tmp_path)), partial(stop_after, 3))
    path = find_run(tmp_path, "last")
    assert answers(open_target(str(path), tmp_path)), "a checkpoint answers too"
    resume(path)
    assert adapter_hashes(path) == adapter_hashes(trained(case).run)


@pytest.mark.parametrize("case", METHODS)
def test_what_is_trained_is_counted_before_a_weight_is_loaded(
    case: str, trained: Callable[[str], Trained]
) -> None:
    config = trained(case).config
    saved = read_tensors(trained(case).run / "checkpoints" / "step-000006")
    spec = inspect_base(config.base)
    assert trained_numbers(on_meta(spec.hf_config, spec.source), config.lora) == sum(
        t.numel() for t in saved.values()
    )


@pytest.mark.parametrize("case", METHODS)
def test_a_checkpoint_answers_as_the_finished_adapter_does(
    case: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    run = trained(case).run
    finished = open_target(str(run), tmp_path)
    aside = run / "adapter-aside"
    (run / "adapter").rename(aside)
    try:
        last = open_target(str(run), tmp_path)
    finally:
        aside.rename(run / "adapter")
    assert answers(last) == answers(finished)
    assert len(answers(finished)[0]) == 6


def plain(case: str, trained: Trained) -> Any:
    """The adapter as its user opens it without sapwood, on the original base."""
    model, adapter = Path(trained.config.base.model), trained.run / "adapter"
    if case == "full":
        return AutoModelForCausalLM.from_pretrained(adapter).eval()
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    base = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=quantised if case == "loftq" else None, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, adapter).eval()
    for module in model.modules():  # in eval mode bitsandbytes rounds to bf16 on processors that have it
        if isinstance(module, Linear4bit):
            module.training = True
    return model


@pytest.mark.parametrize("case", METHODS)
def test_plain_peft_on_the_original_base_answers_as_we_do(
    case: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    theirs = plain(case, trained(case))
    ours = open_target(str(trained(case).run), tmp_path)
    for ids, answer in zip(PROMPTS, answers(ours), strict=True):
        said = [*ids, *answer]
        found = logits(theirs, said)[-len(answer) - 1 : -1]
        if ours.model is None or not trained(case).config.lora.lead:
            torch.testing.assert_close(found, logits(ours.network, said)[-len(answer) - 1 : -1], **CLOSE)
        assert found.argmax(-1).tolist() == list(answer)


@pytest.mark.parametrize("case", [case for case in METHODS if case != "full"])
def test_switched_off_it_is_the_base(case: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    loaded = open_target(str(trained(case).run), tmp_path)
    base = load_base(loaded.base.spec, BaseConfig(model=loaded.base.spec.source, storage="fp32")).model
    own = answers(loaded)
    with loaded.without_adapter():
        if case != "loftq":  # its base is the quantised one
            assert answers(loaded) == answers(loaded, base)
    assert answers(loaded) == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"method": "loftq"}}, "loftq needs base.storage nf4 or fp4 or int8, not fp32"),
        ({"lora": {"method": "pissa"}, "base": {"storage": "nf4"}}, "pissa needs base.storage fp32"),
        ({"lora": {"method": "full"}, "base": {"storage": "auto"}}, "full needs base.storage fp32, not auto"),
        (
            {"lora": {"method": "full"}, "train": {"shard": "base"}},
            "train.shard can't split full fine-tuning",
        ),
        ({"lora": {"method": "ia3", "targets": "q.*"}}, "matches no linear|not a regular expression"),
        ({"lora": {"rank": 500}}, "lora.rank=500 is larger"),
        (
            {"lora": {"bias": "all"}, "base": {"storage": "bf16"}},
            "bias all needs base.storage fp32",
        ),
        ({"lora": {"bias": "all", "method": "prefix"}}, "lora.method prefix takes no lora.bias"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    changes: dict[str, Any], message: str, place: Path
) -> None:
    tree = make_config(place).model_dump(mode="json")
    for section, keys in changes.items():
        tree[section] |= keys
    with pytest.raises(ConfigError, match=message):
        finetune(parse_config(tree))


@pytest.mark.parametrize("page", ["scale.md", "scale.zh-CN.md"])
def test_the_arithmetic_of_memory_and_traffic_is_that_of_the_methods(page: str) -> None:
    """docs/scale: how many numbers each method trains of a Llama 2 7B, from shapes alone."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z].*`) \| ([\d,]+) \|", text, re.MULTILINE)
    told = {
        name: int(count.replace(",", "")) for names, count in rows for name in re.findall(r"`(.*?)`", names)
    }
    assert set(told) == set(get_args(Method))
    for method in ("lora", "dora", "ia3", "prompt", "p-tuning", "prefix", "full"):
        with torch.device("meta"):
            llama = AutoModelForCausalLM.from_config(LlamaConfig())  # the defaults are those of the 7B
        assert trained_numbers(llama, LoraConfig(method=method)) == told[method], method


def test_dropout_is_doubted_where_the_base_itself_would_be_dropped(place: Path) -> None:
    config = configured(place, "pissa")
    assert [doubt.partition(":")[0] for doubt in doubts(config)] == ["lora.dropout=0.2 with pissa"]
    assert not list(doubts(configured(place, "lora")))
    quiet = config.lora.model_copy(update={"dropout": 0.0})
    assert not list(doubts(config.model_copy(update={"lora": quiet})))


def test_biases_are_trained_only_where_there_are_some(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    changed = config.model_copy(update={"lora": config.lora.model_copy(update={"bias": "all"})})
    with pytest.raises(ConfigError, match="this base has no biases"):
        finetune(changed)
