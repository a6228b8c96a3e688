"""Base and adapter on the same rows: from Python, and as `sapwood eval` on a run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sapwood import finetune, load_config
from sapwood.commands.eval import eval_run, held_out, prepare_file, verdict
from sapwood.errors import DataError, ModelError
from sapwood.evaluate import Compared, evaluate_rows, probes_of, row_losses
from sapwood.run.query import find_run, read_events, read_samples
from sapwood.scores import Interval
from sapwood.serve.load import open_base, open_target
from tests.shell import shell
from tests.test_pipeline import make_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    finetune(make_config(folder))
    return find_run(folder / "runs", "last")


def sapwood_eval(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return shell("eval", str(run), *arguments)


def test_losses_are_those_that_the_training_measured(run: Path) -> None:
    loaded = open_target(str(run), run.parent)
    examples = held_out(run)
    found = evaluate_rows(loaded, examples, answers=2, max_new_tokens=4)
    measured = [e["data"]["loss"] for e in read_events(run)[0] if e["kind"] == "evaluated"]
    assert found.figures["loss"].base == pytest.approx(measured[0], rel=1e-5)
    assert found.figures["loss"].adapter == pytest.approx(measured[-1], rel=1e-5)
    assert found.figures["loss"].difference.high < 0, "the run has learnt something"
    last = max(sample["step"] for sample in read_samples(run))
    told = [s["answer"] for s in read_samples(run) if s["step"] == last]
    assert [tuned.answer for _, tuned in found.answers] == told
    first = [s["answer"] for s in read_samples(run) if s["step"] == 0]
    assert [base.answer for base, _ in found.answers] == first


def test_a_rows_loss_is_cross_entropy_over_its_learnt_tokens(run: Path) -> None:
    loaded = open_target(str(run), run.parent)
    examples = held_out(run)
    assert loaded.model is not None
    sums = row_losses(loaded.model, examples)
    for example, total in zip(examples, sums, strict=True):
        ids = torch.tensor(example.ids[None].astype(np.int64))
        with torch.no_grad():
            logits = loaded.model.peft(ids).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        assert total == pytest.approx(float(each[torch.tensor(example.trained[1:])].sum()), rel=1e-4)


def test_a_question_ends_where_the_last_learnt_turn_begins(run: Path) -> None:
    loaded = open_target(str(run), run.parent)
    examples = held_out(run)
    for probe, example in zip(probes_of(loaded, examples, 9), examples, strict=True):
        assert probe.reference.startswith("Water tree")
        assert re.search(r"tree \d+", probe.prompt) and "assistant" not in probe.prompt, "the user alone"
        assert tuple(example.ids[: len(probe.ids)]) == probe.ids
        assert example.trained[len(probe.ids)]
        assert not example.trained[: len(probe.ids)].any()
    document = examples[0].__class__(examples[0].row, examples[0].ids, np.ones_like(examples[0].trained))
    assert probes_of(loaded, [document], 1) == [], "nobody asks a document"


def test_a_bare_base_has_nothing_to_compare_with(run: Path) -> None:
    config = load_config(run / "config.yaml")
    with pytest.raises(ModelError, match="nothing to compare"):
        evaluate_rows(open_base(config.base.model), [], answers=0, max_new_tokens=1)


def test_the_command_says_what_it_found(run: Path) -> None:
    done = sapwood_eval(run, "--answers", "2", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    for word in ("loss", "perplexity", "chrF", "exact match %", "stopped by itself %", "95 % interval"):
        assert word in done.stdout
    assert done.stdout.endswith("the adapter is better than its base on these rows\n")


def test_other_rows_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"What about bush {i}?", "output": f"Water bush {i} well. "} for i in range(5)]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(rows))
    eval_run(str(run), run.parent, other, answers=3, max_new_tokens=4, seed=0, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["rows"], len(found["answers"])) == (5, 3)
    assert found["answers"][0]["reference"] == "Water bush 0 well."
    loss = found["figures"]["loss"]
    assert loss["difference"]["value"] == pytest.approx(loss["adapter"] - loss["base"])
    assert loss["difference"]["low"] <= loss["difference"]["value"] <= loss["difference"]["high"]


def test_a_bad_row_of_other_data_is_named(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"instruction": "What?", "output": ""}\n')
    with pytest.raises(DataError, match=r"other\.jsonl:1"):
        eval_run(str(run), run.parent, other, answers=0, max_new_tokens=4, seed=0, as_json=True)


def test_other_data_need_not_have_the_encoding_of_the_runs_own(run: Path, tmp_path: Path) -> None:
    loaded = open_target(str(run), run.parent)
    config = load_config(run / "config.yaml", ["data.encoding=gb18030"])
    read = []
    for encoding in ("gb18030", "utf-8"):
        file = tmp_path / f"{encoding}.jsonl"
        file.write_text('{"instruction": "怎么借书？", "output": "带上校园卡。"}\n', encoding=encoding)
        read.append([example.ids.tolist() for example in prepare_file(file, config, loaded)])
    assert read[0] == read[1]


def test_the_verdict_is_that_of_the_interval() -> None:
    for low, high, word in ((-0.2, -0.1, "better"), (0.1, 0.2, "worse"), (-0.1, 0.1, "no difference")):
        assert word in verdict(Compared(1.0, 1.0, Interval(0.0, low, high)))
