"""A model whose layers mix tokens otherwise than by attention: each row has a pass of its own, and all else
is as for any other model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from sapwood import finetune
from sapwood.base.tiny import tiny_model
from sapwood.commands.data import check_config
from sapwood.config.file import dump_config, load_config, parse_config
from sapwood.config.sections import RunConfig
from sapwood.errors import ModelError
from sapwood.evaluate import row_losses
from sapwood.prepare.study import study_config
from sapwood.restart import resume
from sapwood.serve.generate import Settings, answer_batch
from sapwood.serve.load import open_target
from sapwood.train.loop import pack_examples
from sapwood.train.trial import tried
from sapwood.types import Stepped, Stop
from tests.base.tiny import VOCAB_SIZE, tiny_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LFM2, which has short convolutions beside attention, and rows that share a beginning."""
    folder = tmp_path_factory.mktemp("alone")
    config: Any = CONFIG_MAPPING["lfm2"](
        vocab_size=VOCAB_SIZE, num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2
    )
    for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
        setattr(config, key, {"eos_token_id": 2}.get(key, 0))
    tiny_model(config, folder / "base", vocabulary=VOCAB_SIZE)
    tiny_tokenizer().save_pretrained(folder / "base")
    rows = [{"instruction": f"What is tree {i}?", "output": f"It is number {i}."} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(dump_config(settings(folder)))
    return folder


def settings(folder: Path, **sections: Any) -> RunConfig:
    return parse_config(
        {
            "base": {"model": str(folder / "base"), "storage": "fp32"},
            "data": {"train": str(folder / "rows.jsonl"), "eval": 2, "system": "You name trees."},
            "lora": {"rank": 4, "dropout": 0.1},
            "train": {"max_steps": 3, "batch_size": 4, "lr": 0.01},
            "eval": {"samples": 0},
            "save": {"dir": str(folder / "runs"), "every": 1},
        }
        | sections
    )


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return finetune(settings(place, name="whole")).path.parent


def test_check_says_which_way_and_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_config(place / "run.yaml", [], as_json=False)
    told = capsys.readouterr().out
    assert "each row has a forward pass of its own" in told and "the loss of a pack is" in told


def test_every_row_has_a_pass_of_its_own(place: Path, run: Path) -> None:
    assert load_config(run / "config.yaml").pack.rows == "alone"
    study, config = tried(study_config(settings(place)), settings(place))
    packs = pack_examples(list(study.data.train), config)
    assert [len(pack.rows) for pack in packs] == [1] * len(study.data.train)


def test_the_first_loss_is_that_of_plain_transformers_over_all_targets(place: Path) -> None:
    study, _ = tried(study_config(settings(place)), settings(place))
    steps: list[Stepped] = []
    all_rows = settings(place, train={"max_steps": 1, "batch_size": 6})
    finetune(all_rows, watch=lambda event: steps.append(event) if isinstance(event, Stepped) else None)
    network: Any = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    total, targets = 0.0, 0
    for example in study.data.train:
        ids = torch.from_numpy(example.ids.astype("int64"))
        with torch.no_grad():
            rows = network(ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        at = torch.from_numpy(example.trained[1:])
        total -= float(rows[at].gather(1, ids[1:][at][:, None]).sum())
        targets += int(at.sum())
    assert steps[0].loss == pytest.approx(total / targets, rel=1e-5)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(place: Path, run: Path) -> None:
    stopped = settings(place, name="stopped")
    with pytest.raises(Exception, match="stopped"):
        finetune(stopped, watch=lambda e: Stop() if isinstance(e, Stepped) and e.step == 2 else None)
    other = next((place / "runs").glob("*stopped*"))
    resume(other)
    one, two = (path / "adapter" / "adapter_model.safetensors" for path in (run, other))
    assert one.read_bytes() == two.read_bytes()


def test_the_adapter_answers_as_plain_peft_does(place: Path, run: Path) -> None:
    loaded = open_target(str(run), place)
    network = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(network, run / "adapter").eval()
    prompts = [[5, 80, 300, 41], [7, 8, 9, 300, 12, 13, 300]]
    answers = answer_batch(loaded.network, loaded.tokenizer, prompts, (2,), Settings(max_new_tokens=6))
    for prompt, answer in zip(prompts, answers, strict=True):
        written = plain.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, use_cache=False,
            eos_token_id=2, pad_token_id=0,
        )[0].tolist()[len(prompt) :]  # fmt: skip
        assert list(answer.ids) == [id for id in written if id != 2]
    study = study_config(settings(place))
    assert row_losses(loaded.model, list(study.data.train)[:2]).min() > 0  # type: ignore[arg-type]


def test_a_soft_prompt_wants_packs(place: Path) -> None:
    config = settings(place, lora={"method": "prompt", "virtual_tokens": 2})
    with pytest.raises(ModelError, match="this model takes no soft prompt"):
        tried(study_config(config), config)
