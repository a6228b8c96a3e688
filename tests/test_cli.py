"""The command line as a person meets it: what it prints, and what it leaves with."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner, Result

import sapwood
from sapwood import cli
from sapwood.commands.line import help as help_of_the_line
from sapwood.compute import fused
from sapwood.compute.attention import varlen
from sapwood.config.faults import help_of
from sapwood.config.file import field_of, load_config
from sapwood.config.names import sections_of
from sapwood.config.sections import RunConfig
from sapwood.errors import ConfigError, DataError
from sapwood.machine import device
from tests.base.caches import in_hugging_face
from tests.base.tiny import tiny_llama
from tests.machine.pretended import Card, plug_in
from tests.shell import in_a_terminal, shell


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a dozen rows, a config, and one finished run."""
    folder = tmp_path_factory.mktemp("home")
    tiny_llama(folder)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "my.yaml").write_text(
        "name: mine\n"
        "base: {model: tiny-llama, storage: fp32}\n"
        "data: {train: rows.jsonl, eval: 2}\n"
        "lora: {rank: 2}\n"
        "train: {batch_size: 5, max_steps: 3, lr: 1e-2}\n"
        "eval: {samples: 1, max_new_tokens: 4}\n"
    )
    here = Path.cwd()
    os.chdir(folder)
    try:
        done = call("train", "my.yaml")
    finally:
        os.chdir(here)
    assert done.exit_code == 0, done.output
    assert "15 checks passed" in done.output
    assert "step 3/3" in done.output
    assert "sapwood chat" in done.output
    return folder


@pytest.fixture(autouse=True)
def inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "home" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("home"))


def call(*arguments: str) -> Result:
    """The app in this process, as `main` would treat its errors."""
    result = CliRunner().invoke(cli.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_check_reports_and_trains_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    said = call("check", "my.yaml").output
    for word in (
        "rows       10 to learn from, 2 held out",
        "proof",
        "trains     ",
        "time       about",
        "memory     about",
    ):
        assert word in said
    assert sorted(home.rglob("*")) == before
    facts = json.loads(call("check", "my.yaml", "--json").output)
    assert facts["proof"]["rows"] == 10
    assert facts["estimate"]["seconds"] > 0
    assert facts["memory"]["peak"] > facts["memory"]["weights"] > 0 and facts["memory"]["why"]


def test_show_marks_what_is_learnt(home: Path) -> None:
    said = call("show", "my.yaml", "--row", "0").output
    assert said.startswith("<|im_start|>│user")
    assert "⟦Wat" in said, "the answer's first token is marked, without colour too"
    assert "9 trained" in said
    page = home / "page.html"
    call("show", "my.yaml", "-n", "3", "--html", str(page))
    assert "<html" in page.read_text(encoding="utf-8")
    page.unlink()


def test_show_of_a_row_that_is_not_there(home: Path) -> None:
    done = shell("show", "my.yaml", "--row", "99", cwd=home)
    assert (done.returncode, "no row 99" in done.stderr) == (3, True)


def test_runs_lists_and_compares(home: Path) -> None:
    assert "finished" in call("runs").output
    (run,) = json.loads(call("runs", "--json").output)
    assert run["name"] == "mine"
    assert "held-out" in call("runs", "mine", run["id"]).output
    both = json.loads(call("runs", "mine", "mine", "--json").output)
    assert len(both["runs"]) == 2
    assert "no runs" in call("runs", "--runs", "elsewhere").output


def test_train_json_is_nothing_but_json(home: Path) -> None:
    done = shell("train", "my.yaml", "--json", "train.max_steps=1", "save.dir=json-runs", cwd=home)
    assert done.returncode == 0, done.stderr
    *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["kind"] for event in events] == ["evaluated", "stepped", "evaluated", "finished"]
    assert last["kind"] == "result" and (home / last["adapter"]).is_dir()


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_a_terminal_that_knows_few_letters_ends_nothing(home: Path, encoding: str) -> None:
    narrow = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for words in (
        ["show", "my.yaml"],
        ["check", "my.yaml", "data.system=🌳 Ärzte"],
        ["chat", "mine", "-p", "什么 🌳", "--max-new-tokens", "3"],
    ):
        done = shell(*words, cwd=home, env=narrow)
        assert done.returncode == 0, done.stderr


def test_the_loss_curve_is_a_picture(home: Path) -> None:
    (run,) = json.loads(call("runs", "--json").output)
    assert (home / run["path"] / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_chat_answers_once(home: Path) -> None:
    done = shell("chat", "mine", "--prompt", "Tree 3?", "--max-new-tokens", "5", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(
        shell("chat", "mine", "-p", "Tree 3?", "--max-new-tokens", "5", "--json", cwd=home).stdout
    )
    assert facts
    compared = shell("chat", "mine", "-p", "Tree 3?", "--max-new-tokens", "5", "--compare", cwd=home)
    assert compared.returncode == 0, compared.stderr


def test_resume_of_a_finished_run_is_quick_and_harmless(home: Path) -> None:
    assert "finished" in call("resume", "mine").output


def test_init_writes_a_config_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text('[{"instruction": "Tree?", "output": "Water it."}]')
    assert "wrote my.yaml" in call("init", "my.yaml", "--data", "rows.json").output
    assert load_config(tmp_path / "my.yaml").data.train == ("rows.json",)
    done = shell("init", "my.yaml", cwd=tmp_path)
    assert (done.returncode, "file exists" in done.stderr) == (5, True)
    assert call("init", "my.yaml", "--force").exit_code == 0


def test_doctor_looks_at_the_machine() -> None:
    assert "GFLOP/s" in call("doctor").output
    facts = json.loads(call("doctor", "--json").output)
    assert facts["memory_total"] > facts["memory_available"] > 0
    assert facts["versions"]["torch"]
    known = {row["model"]: row for row in facts["fits"]}
    assert known["SmolLM2 135M"]["peak"] < known["Qwen2.5 1.5B"]["peak"] < known["Llama 2 13B"]["peak"]
    assert all(row["fits"] == (row["peak"] <= 0.92 * row["available"]) for row in facts["fits"])


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        ({}, "norms, gated products, rotary positions and the loss by liger-kernel, which was proved here"),
        (
            {"norm": "bfloat16: 0.3 apart"},
            "norm is left to torch (bfloat16: 0.3 apart): several passes over memory instead of one",
        ),
    ],
)
def test_doctor_says_which_libraries_compute_on_a_card(
    refused: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, Card())
    monkeypatch.setattr(device, "prove", lambda *_: None)
    monkeypatch.setattr(fused, "installed", lambda: True)
    monkeypatch.setattr(fused, "refused", lambda *_: refused)
    monkeypatch.setattr(varlen, "why_not", lambda _: None if not refused else "no such kernel")
    told = call("doctor").output
    assert f"fused      {line}\n" in told
    assert (
        "torch's varlen, which was proved" if not refused else "varlen isn't used (no such kernel)"
    ) in told


def test_model_list_names_what_the_caches_of_hubs_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    in_hugging_face(tmp_path, "model:org/held-base", config__json=b"{}", model__safetensors=b"x" * 9000)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "hf:org/held-base" in call("model", "list").output
    held = json.loads(call("model", "list", "--json").output)["held"]
    assert {"name": "hf:org/held-base", "kind": "model", "size": 9002} in held


def test_model_list_and_info(home: Path) -> None:
    assert "builtin:smollm2" in call("model", "list").output
    assert json.loads(call("model", "list", "--json").output)["models"]
    assert "llama" in call("model", "info", "tiny-llama").output
    assert json.loads(call("model", "info", "tiny-llama", "--json").output)


def test_version_and_help() -> None:
    assert call("--version").output.startswith("sapwood ")
    said = call("--help").output
    for verb in ("demo", "check", "show", "train", "resume", "runs", "chat", "init", "doctor", "model"):
        assert verb in said


# Each: arguments, exit code, and what the one message must say.
BAD = {
    "unknown key": (
        ["train", "my.yaml", "train.epoch=2"],
        2,
        ["unknown key train.epoch", "did you mean train.epochs?"],
    ),
    "no GPU here": (
        ["check", "my.yaml", "base.device_map=balanced_low_0"],
        2,
        ["there is no GPU here", "base.device_map=balanced_low_0", "base.device_map=auto takes the CPU"],
    ),
    "missing config": (["train", "me.yaml"], 2, ["not found", "did you mean my.yaml?"]),
    "not an override": (["train", "my.yaml", "epochs"], 2, ["section.key=value"]),
    "missing data": (["check", "my.yaml", "data.train=row.jsonl"], 3, ["row.jsonl", "rows.jsonl"]),
    "wrong JSON": (["check", "my.yaml", "data.train=bad.json"], 3, ["bad.json:1"]),
    "row without answer": (["check", "my.yaml", "data.train=empty.jsonl"], 3, ["empty.jsonl:1", "output"]),
    "overlong": (["check", "my.yaml", "pack.length=16"], 3, ["[overlong]", "template.overlong=drop"]),
    "model not found": (["check", "my.yaml", "base.model=tiny-lama"], 4, ["tiny-lama", "tiny-llama"]),
    "no target module": (["train", "my.yaml", "lora.targets=[q_prj]"], 2, ["q_prj", "did you mean q_proj?"]),
    "runs below a file": (["train", "my.yaml", "save.dir=rows.jsonl"], 5, ["rows.jsonl", "not a folder"]),
    "unknown run": (["resume", "nothing"], 2, ["nothing"]),
    "unknown chat target": (["chat", "nobody", "-p", "hi"], 2, ["nobody"]),
    "no network": (["check", "my.yaml", "base.model=hf:nobody/nothing"], 4, ["nobody/nothing"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_error(case: str, home: Path) -> None:
    (home / "bad.json").write_text('[{"instruction": "a", "output": "b",}]')
    (home / "empty.jsonl").write_text('{"instruction": "a", "output": ""}\n')
    arguments, code, words = BAD[case]
    before = sorted(p for p in home.rglob("*") if "runs" not in p.parts)
    runs = len(list((home / "runs").iterdir()))
    done = shell(*arguments, cwd=home, env={"HF_HUB_OFFLINE": "1"})
    said = done.stderr
    assert "Traceback" not in said
    assert done.returncode == code, said
    for word in words:
        assert word in said
    assert " · " in said
    assert sorted(p for p in home.rglob("*") if "runs" not in p.parts) == before
    assert len(list((home / "runs").iterdir())) == runs


UNKNOWN = (
    "chat nobody", "chat builtin:nobody", "eval nobody", "eval nobody:oak", "export nobody --to gguf",
    "verify nobody", "track nobody", "resume nobody", "push nobody me/oak", "report nobody", "runs nobody",
    "combine mine nobody --out both", "adopt nobody",
)  # fmt: skip


def test_an_unknown_name_is_told_before_torch_is_imported(home: Path) -> None:
    code = (
        "import json, sys, sapwood.cli as c\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    try: c.app(line.split(), standalone_mode=False)\n"
        "    except Exception as error: print(error)\n"
        "print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, json.dumps(UNKNOWN)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    *said, modules = done.stdout.strip().splitlines()
    assert len(said) == len(UNKNOWN)
    assert all("nobody" in line for line in said)
    assert modules == "set()"


def test_a_folder_that_cannot_be_written(home: Path) -> None:
    done = shell("train", "my.yaml", "save.dir=/proc/sapwood", cwd=home)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


def test_a_run_in_use_says_by_whom(home: Path) -> None:
    from sapwood.run.store import reopen_run

    run = json.loads(call("runs", "mine", "--json").output)["runs"][0]
    with reopen_run(home / run["path"]):
        done = shell("resume", "mine", cwd=home)
    assert done.returncode == 7
    assert str(os.getpid()) in done.stderr


def test_debug_shows_the_traceback(home: Path) -> None:
    assert "Traceback" in shell("train", "me.yaml", "--debug", cwd=home).stderr


# --- help ---------------------------------------------------------------------------------------------------


def test_alone_it_shows_five_verbs_and_is_content() -> None:
    done = shell()
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.findall(r"^  ([a-z]+) +\S", done.stdout, re.MULTILINE)
    assert shown == ["demo", "init", "check", "train", "chat"]


def every_verb(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    group = group or typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from every_verb(command, (*path, name))


@pytest.mark.parametrize("verb", list(every_verb()), ids=" ".join)
def test_each_verb_explains_itself_with_an_example(verb: tuple[str, ...]) -> None:
    said = call(*verb, "--help").output
    assert said == call("help", *verb).output
    assert f"Examples:\n  sapwood {' '.join(verb)}" in said
    assert "..." not in said and "<" not in said.replace("<|", "")
    assert "usage: sapwood" in said


UNIT = re.compile(
    r"\b(?:tokens|steps|examples|questions|answers|requests|seconds|bytes|number|port|share|factor)\b"
)


@pytest.mark.parametrize("verb", list(every_verb()), ids=" ".join)
def test_each_option_is_explained_with_its_unit_and_its_default(verb: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(cli.app)
    for name in verb:
        command = command.commands[name]
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        said = help_of_the_line.said(parameter)
        assert said and said != str(parameter.default), parameter.name
        if parameter.metavar in ("N", "X"):
            assert UNIT.search(said), f"{parameter.name}: {said}"
        if parameter.default is not None and not isinstance(parameter.default, bool):
            assert "default: " in said, f"{parameter.name}: {said}"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tra", ["train", "track"]),
        ("train --sp", ["--spill-dir"]),
        ("model pu", ["pull"]),
        ("train my.yaml lora.r", ["lora.rank=", "lora.rank=8"]),
        ("train my.yaml train.ep", ["train.epochs=", "train.epochs=VALUE"]),
        ("train my.yaml eval.p", ["eval.patience=", "eval.patience=VALUE"]),
        ("check lora.r", ["lora.rank=", "lora.rank=8"]),  # without a file, sapwood.yaml is meant
        ("train my.yaml base.storage = n", ["nf4"]),  # as bash divides base.storage=n
        ("train base.storage = n", ["nf4"]),
        ("train my.yaml lora.rank = ", []),
        ("train ", []),  # files are what the shell offers then
        ("help lora.r", ["lora.rank"]),
        ("help ver", ["verify", "version"]),
    ],
)
def test_a_shell_completes_verbs_options_and_keys(typed: str, offered: list[str]) -> None:
    words = f"sapwood {typed}"
    done = completed(_SAPWOOD_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert sorted(done.split()) == sorted(offered)


@pytest.mark.parametrize(
    ("typed", "offered"), [("base.storage=n", "base.storage=nf4"), ("lora.r", "size of")]
)
def test_shells_that_show_help_get_it(typed: str, offered: str) -> None:
    asked = {
        "_TYPER_COMPLETE_ARGS": f"sapwood train my.yaml {typed}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert offered in completed(_SAPWOOD_COMPLETE="complete_fish", **asked)
    assert offered in completed(_SAPWOOD_COMPLETE="complete_zsh", **asked)


def test_a_shell_completes_runs_the_newest_first(tmp_path: Path) -> None:
    for i, name in enumerate(("older", "newer")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps({"created": f"2026-11-0{1 + i}"}))
    for words in ("sapwood chat ", f"sapwood resume --runs {tmp_path / 'runs'} "):
        done = completed(
            tmp_path, _SAPWOOD_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
        )
        assert done.split() == ["last", "newer", "older"]


def completed(folder: Path | None = None, **asked: str) -> str:
    """What a shell is told that asks with these variables, in ``folder``."""
    code = "import sys; sys.argv = ['sapwood']; from sapwood.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked, cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_groups_the_verbs_and_forgets_none() -> None:
    said = call("--help").output
    for title in (
        "Train:",
        "See and measure:",
        "Give away:",
        "Models, data, machine:",
        "Options:",
        "Examples:",
    ):
        assert f"\n{title}\n" in said
    shown = {line.split()[0] for line in said.splitlines() if re.match(r"  [a-z]+ {2,}[A-Z]", line)}
    assert {verb[0] for verb in every_verb()} <= shown
    assert "Other:" not in said, "a new verb has a place in commands/line/help.py"


def test_an_unknown_verb_names_the_nearest(home: Path) -> None:
    done = shell("trian", "my.yaml")
    assert done.returncode == 2
    assert "did you mean 'train'" in done.stderr.lower()
    told = shell("help", "trian").stderr
    assert "no verb is called 'trian'" in told and "did you mean train?" in told


KEYS = [f"{section}.{key}" for section, kind in sections_of(RunConfig).items() for key in kind.model_fields]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_explains_itself_with_its_default_and_values(key: str) -> None:
    said = call("help", key).output
    field = field_of(key.split("."))
    assert " ".join(said.split()).startswith(f"{key}: {help_of(field)} default ")
    if get_origin(field.annotation) is Literal:
        assert f"values {', '.join(get_args(field.annotation))} to set" in " ".join(said.split())
    assert f"sapwood train {key}=" in said


def test_a_section_lists_its_keys_and_a_strange_key_finds_ours() -> None:
    said = call("help", "lora").output
    assert all(f"  {key}: " in said for key in KEYS if key.startswith("lora."))
    assert "did you mean lora.rank?" in shell("help", "lora.rnk").stderr
    assert "default  false" in shell("help", "base.offline").stdout
    assert "lora.b_ratio" in shell("help", "loraplus_lr_ratio").stderr


# --- how it speaks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_the_wheel_s(word: str) -> None:
    assert call(word).output == f"sapwood {sapwood.__version__}\n"
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sapwood.__version__"}
    root = Path(__file__).parents[1]
    assert f"## {sapwood.__version__}" in (root / "CHANGELOG.md").read_text("utf-8")
    assert f"\nversion: {sapwood.__version__}\n" in (root / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize("arguments", [["train", "me.yaml"], ["train", "--jsn"], ["runs", "nothing"]])
def test_with_json_an_error_is_json_too(arguments: list[str], home: Path) -> None:
    done = shell(*arguments, "--json", cwd=home)
    told = json.loads(done.stdout)
    assert told["kind"] == "error" and told["exit_code"] == done.returncode == 2
    assert told["problems"][0]["what"] in done.stderr


def test_quiet_says_the_result_and_nothing_on_the_way(home: Path) -> None:
    done = shell("train", "-q", "my.yaml", "train.max_steps=1", "save.dir=quiet-runs", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert (home / line / "adapter").is_dir()


def test_verbose_is_taken_anywhere(home: Path) -> None:
    assert shell("-v", "runs", cwd=home).returncode == shell("runs", "-v", cwd=home).returncode == 0


@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color", "TERM"])
def test_no_colour_where_none_is_wanted(how: str, home: Path) -> None:
    """In a terminal: `show` paints, unless it was told not to."""
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    plain = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM": {"TERM": "dumb"}}.get(how, {})
    words = ["show", "my.yaml", "--row", "0"]
    extra = ["--no-color"] if how == "--no-color" else []
    shown = in_a_terminal(*words, *extra, cwd=home, env=environment | plain)
    assert "⟦Wat" in shown and "\x1b[" not in shown
    if how == "NO_COLOR":
        assert "\x1b[1;32m" in in_a_terminal(*words, cwd=home, env=environment)
        assert "\x1b[" not in shell(*words, cwd=home).stdout


def test_the_last_lines_offer_what_comes_next(home: Path) -> None:
    said = shell("train", "my.yaml", "train.max_steps=1", "save.dir=next-runs", cwd=home).stdout
    for word in ("sapwood chat", "sapwood eval", "sapwood export"):
        assert word in said


# --- runs and eval ------------------------------------------------------------------------------------------


def test_runs_can_be_sorted_and_taken_elsewhere(home: Path) -> None:
    for rank in (1, 3):
        call(
            "train", "my.yaml", f"lora.rank={rank}", "save.dir=many", f"name=rank{rank}", "train.max_steps=2"
        )
    names = [
        run["name"] for run in json.loads(call("runs", "--runs", "many", "--json", "--sort", "name").output)
    ]
    assert names == ["rank1", "rank3"]
    by_loss = json.loads(call("runs", "--runs", "many", "--json", "--sort", "held-out").output)
    assert by_loss[0]["best_eval_loss"] <= by_loss[1]["best_eval_loss"]
    rows = list(csv.DictReader(io.StringIO(call("runs", "--runs", "many", "--csv", "-").output)))
    assert [row["name"] for row in rows] == ["rank3", "rank1"]
    assert float(rows[0]["loss"]) > 0
    assert "drew 2 runs" in call("runs", "--runs", "many", "--plot", "both.png", "--csv", "all.csv").output
    assert (home / "both.png").read_bytes().startswith(b"\x89PNG")
    assert (home / "all.csv").read_text().count("\n") == 3
    with pytest.raises(ConfigError, match="can't be sorted by 'colour'"):
        call("runs", "--sort", "colour")
    for made in ("both.png", "all.csv"):
        (home / made).unlink()


def test_eval_shows_both_answers_and_takes_questions(home: Path) -> None:
    said = call("eval", "mine", "--max-new-tokens", "4").output
    assert said.startswith("› ") and re.search(r"^ base +adapter$", said, re.MULTILINE)
    assert said.index("Tree ") < said.index("perplexity")
    (home / "questions.txt").write_text("Tree 1?\n\nTree 2?\n")
    said = call("eval", "mine", "--prompts", "questions.txt", "--max-new-tokens", "4").output
    assert said.count("› Tree") == 2 and "perplexity" not in said
    asked = ("eval", "mine", "--prompts", "questions.txt", "--max-new-tokens", "4", "--json")
    told = json.loads(call(*asked).output)
    assert [answer["row"] for answer in told["answers"]] == ["questions.txt:1", "questions.txt:3"]
    alone = shell("chat", "mine", "-p", "Tree 1?", "--max-new-tokens", "4", cwd=home).stdout
    assert told["answers"][0]["adapter"]["answer"] == alone.removesuffix("\n")
    (home / "questions.txt").unlink()
    with pytest.raises(DataError, match="the questions can't be read"):
        call("eval", "mine", "--prompts", "questions.txt")
