"""From a file as somebody has it to a trained run, by what sapwood itself says."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from sapwood.base.builtin import BUILTINS
from sapwood.config.file import load_config
from sapwood.errors import ConfigError, SapwoodError
from sapwood.run.query import find_run, summarise
from tests.base.tiny import tiny_llama
from tests.test_cli import call

BLANK = 10
FAST = ("train.max_steps=2", "train.batch_size=4", "lora.rank=2", "eval.samples=0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table as a help desk exports it: columns of its own, ten cells of them blank."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tickets.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "opened", "topic", "customer_msg", "agent_reply", "stars"])
        for i in range(60):
            asked, said = f"My tree number {i} has yellow leaves, what now?", f"Give tree {i} some iron."
            blank = i % 6 == 0
            table.writerow([i, "2026-03-01", "trees", asked, "" if blank else said, i % 5])
    return path


def test_a_table_of_unlike_columns_and_blank_cells_is_trained_by_the_messages_alone(
    tickets: Path, model: Path
) -> None:
    command = ["train", tickets.name, f"base.model={model}", *FAST]
    said: list[str] = []
    for _ in range(4):
        try:
            done = call(*command)
            break
        except SapwoodError as error:
            assert len(error.problems) == 1, str(error)
            said.append(str(error))
            command += re.findall(r"data\.[\w.]+=[\w.]+", error.problems[0].mend)
    else:
        raise AssertionError(f"four commands were not enough: {said}")
    assert "(60 times)" in said[0]
    assert "data.columns.prompt=customer_msg data.columns.completion=agent_reply" in said[0]
    assert f"({BLANK} times)" in said[1]
    assert len(said) == 2
    assert f"left out (data.empty: drop): {BLANK} rows without prompt or answer" in done.output
    assert summarise(find_run(Path("runs"), "last")).status == "finished"


def test_init_reads_the_file_and_train_needs_no_name_then(tickets: Path, model: Path) -> None:
    done = call("init", "--data", tickets.name, "--model", str(model), *FAST)
    assert (
        "data.columns.prompt=customer_msg data.columns.completion=agent_reply (by their names)" in done.output
    )
    assert "50 to learn from" in done.output
    assert f"{BLANK} rows without a prompt or an answer" in done.output
    lines = Path("sapwood.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 14
    config = load_config("sapwood.yaml")
    assert config.data.columns == {"prompt": "customer_msg", "completion": "agent_reply"}
    assert (config.data.empty, config.base.model) == ("drop", str(model))
    checked = call("check", *FAST)
    assert re.search(r"4\d to learn from, \d held out", checked.output)
    assert "time       about" in checked.output
    assert "computes   weights in" in checked.output
    done = call("train", *FAST)
    assert "step 2/2" in done.output
    assert "computes   weights in" in done.output
    assert "time       about" in done.output


def test_init_writes_every_key_if_asked(tickets: Path) -> None:
    call("init", "all.yaml", "--data", tickets.name, "--all")
    text = Path("all.yaml").read_text(encoding="utf-8")
    assert "  # rows with more tokens than pack.length" in text
    assert load_config("all.yaml").data.empty == "drop"


def test_init_keeps_what_the_command_line_says(tickets: Path) -> None:
    call(
        "init",
        "data.columns.prompt=agent_reply",
        "data.columns.completion=customer_msg",
        "--data",
        tickets.name,
    )
    assert load_config("sapwood.yaml").data.columns == {"prompt": "agent_reply", "completion": "customer_msg"}


def test_a_file_that_says_nothing_by_its_names_is_guessed_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"eins": f"Wie tief pflanze ich Baum {i}?", "zwei": f"So tief wie Topf {i}."} for i in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = call("init", "--data", "rows.jsonl")
    both = "data.columns.prompt=zwei data.columns.completion=eins"
    assert f"(a guess; the other way round: {both})" in done.output
    with pytest.raises(SapwoodError) as caught:
        call("check", "rows.jsonl")
    assert both in caught.value.problems[0].mend
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("sentence", "model", "language"),
    [
        ("Water the tree in the morning and look at the leaves, as you have to.", "builtin:smollm2", "Latin"),
        ("早上给树浇水，看看叶子有没有发黄。", "hf:Qwen/Qwen2.5", "Chinese"),
        ("Поливайте дерево утром и смотрите на листья.", "hf:Qwen/Qwen2.5", "Cyrillic"),
    ],
)
def test_the_model_is_proposed_by_language_and_memory(
    sentence: str, model: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sapwood.commands.init.available_memory", lambda: 8 * 10**9)
    monkeypatch.setattr("sapwood.commands.init.answers", lambda address: True)
    rows = [{"prompt": f"{i}: {sentence}", "completion": sentence} for i in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = call("init", "--data", "rows.jsonl")
    assert language in done.output
    assert load_config("sapwood.yaml").base.model.startswith(model)
    monkeypatch.setattr("sapwood.commands.init.answers", lambda address: False)
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path / "cache"))  # no model was pulled
    done = call("init", "--data", "rows.jsonl", "--force")
    named = load_config("sapwood.yaml").base.model
    assert named.startswith("builtin:")
    pull = f"next:\n  sapwood model pull {named} --accept-license  # its terms: https://"
    assert (pull in done.output) == bool(BUILTINS[named.removeprefix("builtin:")].terms)
    assert "\n  sapwood check\n  sapwood train" in done.output


def test_long_rows_get_longer_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "q", "completion": "word " * 900}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    call("init", "--data", "rows.jsonl")
    assert load_config("sapwood.yaml").pack.length > 1024


def test_nothing_to_train_on_is_said_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="sapwood init --data FILE writes one"):
        call("train", "train.lr=1e-3")


def test_a_model_that_can_not_read_the_language_is_a_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"第{i}棵苹果树需要什么？", "completion": "早上浇水，冬天剪枝，再撒一点肥料。"}
        for i in range(20)
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = call("check", "rows.jsonl", f"base.model={model}")
    assert "can't read Chinese" in done.output
    assert "characters a token" in done.output


def test_a_json_file_with_our_sections_is_a_config_and_any_other_is_data(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(40)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    config = {"data": {"train": "rows.json"}, "base": {"model": str(model)}}
    Path("mine.json").write_text(json.dumps(config), encoding="utf-8")
    assert "38 to learn from, 2 held out" in call("check", "mine.json").output
    assert "38 to learn from, 2 held out" in call("check", "rows.json", f"base.model={model}").output
