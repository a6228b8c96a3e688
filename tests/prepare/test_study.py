"""What is known before a weight is loaded, and kept by the run: of messages, of text, with weights."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sapwood.config.file import parse_config
from sapwood.config.sections import RunConfig
from sapwood.errors import DataError, StorageError
from sapwood.prepare.study import (
    MAX_ENTRIES,
    TRAIN,
    Material,
    load_study,
    prepared_study,
    save_study,
    study_config,
)
from sapwood.template.render import Renderer
from tests.base.tiny import CHATML, tiny_llama, tiny_tokenizer
from tests.template.cases import CLOCK


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


def test_a_run_whose_copy_changed_is_not_resumed(tmp_path: Path, model: Path) -> None:
    config = make(tmp_path, model, ROWS)
    study = study_config(config)
    save_study(tmp_path / "data", study)
    other = study_config(make(tmp_path, model, ROWS[1:]))
    save_study(tmp_path / "other", other)
    (tmp_path / "data" / TRAIN).write_bytes((tmp_path / "other" / TRAIN).read_bytes())
    with pytest.raises(StorageError, match=r"differs.*train\.safetensors"):
        load_study(tmp_path / "data", config)


def test_a_file_that_is_replaced_or_deleted_changes_nothing(tmp_path: Path, model: Path) -> None:
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


# --- a second start on the same data ------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "prepared"


def prepare(config: RunConfig, kept: Path | None, template: str = CHATML, rows: int = 99_999) -> Material:
    renderer = Renderer(tiny_tokenizer(template), clock=CLOCK)
    return prepared_study(config, renderer, vocab_rows=rows, context=None, cache=kept)


def same(a: Material, b: Material) -> bool:
    return (
        [(e.row, e.ids.tolist(), e.trained.tolist()) for e in (*a.train, *a.eval)]
        == [(e.row, e.ids.tolist(), e.trained.tolist()) for e in (*b.train, *b.eval)]
        and list(a.probes) == list(b.probes)
        and json.loads(json.dumps(a.facts)) == json.loads(json.dumps(b.facts))
    )


def test_a_second_start_gives_what_the_first_one_proved(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, ROWS, eval=3)
    first = prepare(config, kept)
    (entry,) = kept.iterdir()
    before = entry.read_bytes()
    second = prepare(config, kept)
    assert same(first, second)
    assert same(first, prepare(config, None))
    assert [path.read_bytes() for path in kept.iterdir()] == [before]


def test_a_second_start_renders_nothing(
    tmp_path: Path, model: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(tmp_path, model, ROWS, eval=3)
    first = prepare(config, kept)
    monkeypatch.setattr(Renderer, "renderings", None)
    assert same(first, prepare(config, kept))


def test_whatever_decides_the_examples_has_its_own_entry(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, ROWS, eval=3)
    prepare(config, kept)
    prepare(make(tmp_path, model, [*ROWS[:-1], {**ROWS[-1], "output": "No."}], eval=3), kept)
    make(tmp_path, model, ROWS, eval=3)
    prepare(config, kept, template="{# another #}" + CHATML)
    prepare(config, kept, rows=99_998)
    for change in (
        {"data": {"system": "Be brief."}},
        {"data": {"eval": 4.0}},
        {"template": {"train_on": "last"}},
        {"pack": {"length": 512}},
        {"train": {"seed": 1}},
        {"eval": {"samples": 1}},
    ):
        ((section, values),) = change.items()
        part = getattr(config, section).model_copy(update=values)
        prepare(config.model_copy(update={section: part}), kept)
    assert len(list(kept.iterdir())) == 10


def test_what_decides_nothing_shares_the_entry(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, ROWS)
    prepare(config, kept)
    prepare(config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.5})}), kept)
    assert len(list(kept.iterdir())) == 1


def test_a_damaged_entry_is_made_again(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, ROWS)
    first = prepare(config, kept)
    (entry,) = kept.iterdir()
    good = entry.read_bytes()
    for damaged in (b"", good[:100], good[:-1], good[:200] + b"\xff" + good[201:]):
        entry.write_bytes(damaged)
        assert same(first, prepare(config, kept))
        assert entry.read_bytes() == good


def test_data_that_fail_the_proof_are_not_kept(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, [*ROWS, {"instruction": "q", "output": None}])
    for _ in range(2):
        with pytest.raises(DataError, match="'output' is null"):
            prepare(config, kept)
    assert not kept.exists()


def test_writers_may_race(tmp_path: Path, model: Path, kept: Path) -> None:
    config = make(tmp_path, model, ROWS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare(config, kept), range(8)))
    assert all(same(found[0], one) for one in found)
    assert len(list(kept.iterdir())) == 1, "no temporary file is left"


def test_the_oldest_entries_are_dropped(tmp_path: Path, model: Path, kept: Path) -> None:
    for i in range(MAX_ENTRIES + 3):
        prepare(make(tmp_path, model, ROWS[:3], system=f"{i}"), kept)
    assert len(list(kept.iterdir())) == MAX_ENTRIES


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, model: Path, kept: Path) -> None:
    kept.write_text("a file where the folder should be")
    assert prepare(make(tmp_path, model, ROWS), kept).train
