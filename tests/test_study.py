"""What is known before a weight is loaded, and kept by the run: of messages, of text, with weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sapwood.config import RunConfig, parse_config
from sapwood.errors import DataError, StorageError
from sapwood.study import TRAIN, load_study, save_study, study_config
from tests.model.tiny import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny_llama(folder)
    return folder / "tiny-llama"


def make(
    folder: Path, model: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl", **data: Any
) -> RunConfig:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = data.pop("template", {})
    section = {"train": str(folder / name), "eval": 0, **data}
    return parse_config({"base": {"model": str(model)}, "data": section, "template": template})


ROWS = [{"instruction": f"What about tree {i}?", "output": f"Water tree {i}."} for i in range(12)]


def test_d44_a_run_whose_copy_changed_is_not_resumed(tmp_path: Path, model: Path) -> None:
    config = make(tmp_path, model, ROWS)
    study = study_config(config)
    save_study(tmp_path / "data", study)
    other = study_config(make(tmp_path, model, ROWS[1:]))
    save_study(tmp_path / "other", other)
    (tmp_path / "data" / TRAIN).write_bytes((tmp_path / "other" / TRAIN).read_bytes())
    with pytest.raises(StorageError, match="data_sha256 changed since the run began"):
        load_study(tmp_path / "data", config)


def test_d45_a_file_that_is_replaced_or_deleted_changes_nothing(tmp_path: Path, model: Path) -> None:
    config = make(tmp_path, model, ROWS)
    study = study_config(config)
    save_study(tmp_path / "data", study)
    (tmp_path / "rows.jsonl").unlink()
    again = load_study(tmp_path / "data", config)
    assert [e.ids.tolist() for e in again.data.train] == [e.ids.tolist() for e in study.data.train]
    assert again.facts["proof"] == json.loads(json.dumps(study.facts["proof"]))


def test_weights_repeat_what_is_learnt_and_never_what_is_held_out(tmp_path: Path, model: Path) -> None:
    config = make(tmp_path, model, ROWS, eval=4, weights=[3])
    data = study_config(config).data
    assert {*Counter(e.row for e in data.train).values()} == {3}
    assert len(data.train) == 3 * 8
    assert len({e.row for e in data.eval} | {e.row for e in data.train}) == 12


def test_rendered_text_is_studied_like_messages(tmp_path: Path, model: Path) -> None:
    def text(i: int) -> str:
        return (
            f"<|im_start|>user\nWhat about tree {i}?<|im_end|>\n<|im_start|>assistant\nWater {i}.<|im_end|>\n"
        )

    study = study_config(make(tmp_path, model, [{"text": text(i)} for i in range(8)], eval=2))
    assert study.facts["proof"]["turns"] == 6
    assert [probe.reference for probe in study.probes]
    assert all("What about tree" in probe.prompt for probe in study.probes)


def test_documents_are_studied_where_all_is_learnt(tmp_path: Path, model: Path) -> None:
    rows = [{"text": f"Tree {i} stands by the wall."} for i in range(8)]
    with pytest.raises(DataError, match=r"\[document\]"):
        study_config(make(tmp_path, model, rows, eval=2))
    study = study_config(make(tmp_path, model, rows, eval=2, template={"train_on": "all"}))
    assert len(study.data.train) == 6
    assert not study.probes


def test_a_system_prompt_is_not_slipped_into_rendered_text(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"data\.system can't be put into text"):
        study_config(make(tmp_path, model, [{"text": "x"}], system="Be brief."))


def test_an_accepted_code_is_recorded_with_its_first_row(tmp_path: Path, model: Path) -> None:
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na"
    config = make(tmp_path, model, [{"text": text}] * 2, template={"accept": "missing-end"})
    proof = study_config(config).facts["proof"]
    assert proof["accepted"]["missing-end"] == {"rows": 2, "first": f"{tmp_path}/rows.jsonl:1"}
