"""The tutorials' faults that concern a run and its settings; `tests/template` has those of data and labels.

The numbers are those of the tutorial and of the fault in it.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sapwood import finetune, load_config, parse_config
from sapwood.base.inspect import inspect_base
from sapwood.base.load import load_base
from sapwood.config.sections import BaseConfig, RunConfig
from sapwood.errors import ConfigError
from sapwood.pack.build import build_pack
from sapwood.run.query import read_events
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from sapwood.types import Evaluated, Event, Stepped
from tests.base.tiny import tiny_llama, tiny_model, tiny_tokenizer
from tests.parity.cases import lora_model, random_examples
from tests.parity.test_packed_equals_alone import alone, through_packs
from tests.test_pipeline import make_config


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The folder of a run of the tiny model, and its events; nobody was there to answer a question."""
    folder = tmp_path_factory.mktemp("faults")
    seen: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO())
        adapter = finetune(make_config(folder), seen.append)
    return adapter.path.parent, seen


def refused(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": {"train": "rows.jsonl"}, **sections})
    return str(caught.value)


def plain(**sections: Any) -> RunConfig:
    return parse_config({"data": {"train": "rows.jsonl"}, **sections})


def test_000_4_the_soft_cap_of_gemma_2_is_kept() -> None:
    """Where attention without it would give another loss."""
    rows = random_examples(4, shared=9, seed=1)

    def losses(cap: float | None) -> tuple[float, float]:
        model = lora_model("gemma2", attn_logit_softcapping=cap, initializer_range=0.5)
        packed, _ = through_packs(model, [build_pack(rows)])
        eager, _ = alone(model, rows)
        return packed, eager

    packed, eager = losses(0.05)
    assert packed == pytest.approx(eager, rel=1e-5)
    assert abs(packed - losses(None)[1]) > 1e-3 * eager


def test_000_8_a_run_keeps_a_few_checkpoints(done: tuple[Path, list[Event]]) -> None:
    run, _ = done
    steps = [one.name for one in (run / "checkpoints").iterdir() if one.name.startswith("step-")]
    assert len(steps) == plain().save.keep == 2


def test_000_9_the_result_is_the_end_of_the_run_and_was_measured(done: tuple[Path, list[Event]]) -> None:
    _, seen = done
    measured = [event for event in seen if isinstance(event, Evaluated)]
    steps = [event.step for event in seen if isinstance(event, Stepped)]
    assert measured[0].step == 0, "the base, to compare with"
    assert measured[-1].step == steps[-1]
    assert plain().data.eval == 0.05


def test_000_10_gradients_reach_every_layer_of_the_adapter(done: tuple[Path, list[Event]]) -> None:
    run, _ = done
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    changed = {name for name, value in weights.items() if "lora_B" in name and np.any(value)}
    assert changed == {name for name in weights if "lora_B" in name} != set()


def test_000_12_a_run_has_a_seed(done: tuple[Path, list[Event]]) -> None:
    assert load_config(done[0] / "config.yaml").train.seed == 0


def test_000_13_nothing_is_moved_to_another_device_in_silence() -> None:
    assert "device_map" in refused(base={"device_map": "disk"})


def test_000_14_padding_that_is_the_stop_token_changes_no_answer() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    tokenizer.pad_token = tokenizer.eos_token
    prompts = [[5, 80, 300, 41, 17, 9], [7], [tokenizer.eos_token_id, 12, 30]]
    settings = Settings(max_new_tokens=8)
    together = answer_batch(model, tokenizer, prompts, (), settings)
    apart = [answer_batch(model, tokenizer, [prompt], (), settings)[0] for prompt in prompts]
    assert [answer.ids for answer in together] == [answer.ids for answer in apart]


def test_001_2_the_adapters_own_settings_open_it(done: tuple[Path, list[Event]]) -> None:
    run, _ = done
    saved = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    opened = open_target(str(run / "adapter"), run.parent)
    scales = {module.scaling["default"] for module in opened.network.modules() if hasattr(module, "lora_A")}
    assert scales == {saved["lora_alpha"] / saved["r"]} == {16.0}


def test_001_4_two_runs_never_share_a_folder(done: tuple[Path, list[Event]], tmp_path: Path) -> None:
    run, _ = done
    again = finetune(make_config(tmp_path, run.parent)).path.parent
    assert again != run
    assert again.parent == run.parent
    assert load_config(again / "config.yaml").base.model != load_config(run / "config.yaml").base.model


def test_001_6_no_tracker_is_told_and_nobody_is_asked(done: tuple[Path, list[Event]]) -> None:
    assert plain().track.to == ()
    assert not (done[0] / "trackers").exists()


def test_001_7_chat_begins_with_the_system_prompt_of_the_training(done: tuple[Path, list[Event]]) -> None:
    assert open_target(str(done[0]), done[0].parent).system == "You keep a nursery."


def test_002_5_four_bits_are_nf4_multiplied_in_the_models_format(tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    tiny_llama(tmp_path)
    section = BaseConfig(model=str(tmp_path / "tiny-llama"), storage="nf4")
    base = load_base(inspect_base(section), section)
    linears = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert linears
    assert {module.weight.quant_type for module in linears} == {"nf4"}
    assert {module.compute_dtype for module in linears} <= {torch.float32, torch.bfloat16}
    assert base.storage == "nf4"


@pytest.mark.parametrize("fault", ["002-10", "003-5", "004-8"])
def test_002_10_003_5_004_8_all_linear_layers_at_a_scale_of_four(fault: str) -> None:
    lora = plain().lora
    assert lora.targets == "all-linear"
    assert lora.alpha / lora.rank == 4


def test_002_11_the_adapter_says_what_it_belongs_to(done: tuple[Path, list[Event]]) -> None:
    adapter = done[0] / "adapter"
    facts = json.loads((adapter / "sapwood.json").read_text(encoding="utf-8"))
    assert facts["base_fingerprint"]
    assert facts["template_fingerprint"]
    assert facts["proof"]["codes"]
    assert {"base", "stop_ids", "system"} <= facts.keys()
    assert open_target(str(adapter), done[0].parent).renderer.fingerprint == facts["template_fingerprint"]


@pytest.mark.parametrize("section", ["base", "train", "data"])
def test_002_12_003_8_no_key_runs_a_models_code(section: str) -> None:
    assert "trust_remote_code" in refused(**{section: {"train": "rows.jsonl", "trust_remote_code": True}})


def test_003_6_004_2_one_format_multiplies(done: tuple[Path, list[Event]]) -> None:
    network = open_target(str(done[0]), done[0].parent).network
    assert {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        ("train", "warmup_ratio", "warmup"),
        ("train", "learning_rate", "lr"),
        ("train", "max_seq_length", ""),
        ("data", "dataset_text_field", ""),
        ("base", "load_in_4bit", ""),
    ],
)
def test_003_9_004_6_a_setting_that_does_not_exist_is_refused(section: str, key: str, meant: str) -> None:
    message = refused(**{section: {"train": "rows.jsonl", key: 1} if section == "data" else {key: 1}})
    assert key in message
    assert meant in message


def test_003_10_checkpoints_and_held_out_rows_are_there_without_a_word() -> None:
    config = plain(train={"max_steps": 500})
    assert config.save.every < 500
    assert config.data.eval


def test_004_3_the_short_names_of_formats_are_right() -> None:
    assert plain(base={"storage": "bf16", "compute_dtype": "bf16"}).base.compute_dtype == "bf16"
    assert "bf16" in refused(base={"compute_dtype": "bfloat"})


def test_004_5_004_7_the_run_keeps_its_losses_without_any_tracker(done: tuple[Path, list[Event]]) -> None:
    run, seen = done
    told, _ = read_events(run)
    losses = [event.loss for event in seen if isinstance(event, Stepped)]
    assert [one["data"]["loss"] for one in told if one["kind"] == "stepped"] == losses
    assert all(map(math.isfinite, losses))


def test_004_9_an_optimizer_of_8_bits_learns_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = make_config(tmp_path)
    train = config.train.model_copy(update={"optimizer": "adamw-8bit", "epochs": 1})
    seen: list[Event] = []
    finetune(config.model_copy(update={"train": train}), seen.append)
    losses = [event.loss for event in seen if isinstance(event, Stepped)]
    assert losses[-1] < losses[0]
