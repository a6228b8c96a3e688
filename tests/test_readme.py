"""The README's example runs as it is printed, and both languages say the same things."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sapwood.config.sections import RunConfig
from tests.base.tiny import tiny_llama
from tests.several import command, start

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (
    "README",
    "docs/training",
    "docs/shipping",
    "docs/page",
)  # whose commands run, one page after the other
BOTH = [(f"{page}.md", f"{page}.zh-CN.md") for page in PAGES]
TOLD = [*BOTH, *((f"docs/{page}.md", f"docs/{page}.zh-CN.md") for page in ("index", "why"))]
LONGEST = 180  # lines of a README


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_examples_are_the_same_in_both_languages() -> None:
    said = [[ast.dump(ast.parse(block)) for block in blocks(name, "python")] for name in READMES]
    assert said[0] == said[1]


def test_the_python_example_runs(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(12)]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    (tmp_path / "my.yaml").write_text(
        "base: {model: tiny-llama, storage: fp32}\ndata: {train: my.json, eval: 2}\neval: {samples: 0}\n"
    )
    example, plain_peft = blocks("README.md", "python")
    imports = (
        "from sapwood.config.sections import BaseConfig\nfrom sapwood.base.inspect import inspect_base\n"
    )
    imports += "from sapwood.base.load import load_base\n"
    settings = "b = BaseConfig(model='tiny-llama', storage='fp32')\n"
    base = imports + settings + "base_model = load_base(inspect_base(b), b).model\n"
    done = subprocess.run(
        [sys.executable, "-c", example + base + plain_peft],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path, loss = done.stdout.split()
    assert (tmp_path / path / "adapter_model.safetensors").is_file()
    assert float(loss) > 0


OTHERWISE = {  # lines that set a machine up, and who runs them
    "git clone": "whoever reads this has",
    "make demo": "the first thing that CI's own machine does",
    ". .venv/bin/activate": "`make test` is inside",
    "python -m pip install": "`make install`, with every extra",
    "sapwood serve": "tests/endpoint/test_faults.py starts it and asks",
    "curl": "tests/endpoint/test_openai.py, by a client",
    "sapwood ui": "tests/page, in a browser",
}


def lines_of(names: Sequence[str]) -> list[str]:
    """The commands of pages, without their comments."""
    lines = "".join(block for name in names for block in blocks(name, "sh")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


def test_the_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, in their order, with the tiny model in place of the built-in one. The other language has
    the same ones, see below."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(40)]
    for file in ("my.json", "other.json"):
        Path(file).write_text(json.dumps(rows))
    table = [f"{row['instruction']},{row['output']}" for row in rows]
    Path("my.csv").write_text("\n".join(["instruction,output", *table]) + "\n")
    model, ran = tiny_llama(tmp_path), 0
    for line in lines_of([english for english, _ in BOTH]):
        if line.startswith(tuple(OTHERWISE)):
            continue
        program, *arguments = shlex.split(line)
        if program == "torchrun":
            run_in_several(arguments, tmp_path)
        else:
            assert program == "sapwood", line
            run_in_one(arguments)
        config = Path("my.yaml")
        text = re.sub(r"model: \w+:\S+", f"model: {model.name}", config.read_text())  # whichever was proposed
        config.write_text(text if "eval:" in text else f"{text}eval:\n  samples: 1\n  max_new_tokens: 8\n")
        ran += 1
    assert ran > 15
    for found in ("tokens.html", "runs/*/loss.png", "runs/*/exports/*/check.json", "runs/trackers/mlflow"):
        assert list(Path().glob(found)), found


def run_in_one(arguments: list[str]) -> None:
    from sapwood.cli import app

    done = CliRunner().invoke(app, arguments, input="")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, (arguments, done.output)


def run_in_several(arguments: list[str], folder: Path) -> None:
    """As torchrun would, from warm processes; `tests/crash/test_processes.py` has torchrun itself."""
    option, number, module, name, *rest = arguments
    assert (option, module, name) == ("--nproc-per-node", "-m", "sapwood")
    group = start(command, int(number), folder / "out", *rest, settings=[{"CWD": str(folder)}] * int(number))
    assert group.wait() == [0] * int(number), [path.read_text() for path in group.outputs]


@pytest.mark.parametrize("name", [name for both in TOLD for name in both])
def test_every_command_and_key_exists(name: str) -> None:
    from sapwood.cli import app

    verbs = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    verbs |= {group.name for group in app.registered_groups if group.name}
    told = "".join([*blocks(name, "sh"), *blocks(name, "console")])
    assert set(re.findall(r"^sapwood (\w+)", told, flags=re.MULTILINE)) <= verbs
    for section, key in re.findall(r"\b(\w+)\.(\w+)=", told):
        assert key in RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize(("english", "chinese"), TOLD)
def test_both_languages_have_the_same_sections_and_commands(english: str, chinese: str) -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (english, chinese)]
    levels, tables, pictures = (
        [re.findall(pattern, text, re.MULTILINE) for text in texts]
        for pattern in (r"^(#+) ", r"^\|[-|]+\|$", r"^!\[.*\]\((.*)\)")
    )
    assert levels[0] == levels[1] and tables[0] == tables[1] and pictures[0] == pictures[1]
    strip = re.compile(r"#.*")
    for a, b in zip(blocks(english, "sh"), blocks(chinese, "sh"), strict=True):
        assert [strip.sub("", line).split() for line in a.splitlines()] == [
            strip.sub("", line).split() for line in b.splitlines()
        ]


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_links_lead_somewhere() -> None:
    pages = [ROOT / name for name in (*READMES, "ARCHITECTURE.md", "CONTRIBUTING.md")]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, heading = target.partition("#")
            if path.startswith("http"):
                continue
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                assert heading in headings(file), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as a hub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def test_the_pages_of_evidence_are_as_their_script_writes_them_and_their_commands_exist() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "evidence.py"))
    for name, page in script["pages"]().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, "run: python docs/evidence.py"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for claim in script["claims"]():
        program, *words = claim["command"].split()
        if program in ("python", "pytest"):
            assert (ROOT / words[0].partition("::")[0]).exists(), claim["command"]
        elif program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), claim["command"]


def test_a_figure_of_the_readme_stands_among_the_evidence() -> None:
    for readme, page in zip(READMES, ("evidence.md", "evidence.zh-CN.md"), strict=True):
        text = (ROOT / readme).read_text(encoding="utf-8")
        shown = " ".join(re.findall(r"^ +\*([^*]+)\*$", text, re.MULTILINE))
        evidence = (ROOT / "docs" / page).read_text(encoding="utf-8")
        figures = re.findall(r"\d[\d.,]*\d|\d", re.sub(r"SHA-256", "", shown))
        assert len(figures) > 6
        assert not [figure for figure in figures if figure not in evidence]


def test_nothing_tells_to_install_sapwood_from_an_index_which_has_none() -> None:
    wrong = re.compile(r"\b(?:pip|pipx|uv|uvx)\b[^\n#]*(?<![\w./-])sapwood(?:\[|\b(?!/))")
    assert wrong.search("pip install 'sapwood[ui]'") and wrong.search("pip install -U sapwood")
    assert not wrong.search("pip install -e '.[ui]'  # in the clone of sapwood")
    places = [ROOT / name for name in READMES]
    for folder in ("docs", "recipes", "examples", "src"):
        places += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".md", ".yaml", ".py", ".ipynb")]
    assert len(places) > 400
    found = [(p.name, wrong.findall(p.read_text(encoding="utf-8"))) for p in places]
    assert not [one for one in found if one[1]]
