"""The README's example runs as it is printed, and both languages say the same things."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sapwood.config.sections import RunConfig
from tests.base.tiny import tiny_llama
from tests.several import command, start
from tests.shell import python

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (
    "README",
    "docs/training",
    "docs/shipping",
    "docs/page",
)  # whose commands run, one page after the other
FIRST = ("docs/index",)  # whose commands run by themselves
BOTH = [(f"{page}.md", f"{page}.zh-CN.md") for page in PAGES]
ALIKE = ("index", "why", "serve", "scale", "library", "gpu", "data", "evidence")  # as README and guides are
TOLD = [*BOTH, *((f"docs/{page}.md", f"docs/{page}.zh-CN.md") for page in ALIKE)]
EVERY = [
    *READMES,
    "CONTRIBUTING.md",
    *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]
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
    done = python(example + plain_peft, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path, loss = done.stdout.split()
    assert (tmp_path / path / "adapter_model.safetensors").is_file()
    assert float(loss) > 0
    card = (tmp_path / path / "README.md").read_text(encoding="utf-8")  # which lies in the adapter
    code = "".join(line[4:] for line in card.splitlines(keepends=True) if line.startswith("    "))
    opened = python(code.replace("path/to/this/folder", path) + "print(type(model).__name__)", cwd=tmp_path)
    assert opened.stdout.split() == ["PeftModelForCausalLM"], opened.stderr


OTHERWISE = {  # commands that no test types as they stand, and what does the same
    "git clone": "whoever reads this has",
    "make": "CI runs demo, test, lint and docs; each target exists, see below",
    ". .venv/bin/activate": "`make test` is inside",
    "python -m pip install": "`make install`, with every extra",
    ".venv/bin/python -m pytest": "this",
    "sapwood serve": "tests/endpoint/test_faults.py starts it and asks",
    "curl": "tests/endpoint/test_openai.py, by a client",
    "sapwood ui": "tests/page/test_jobs.py, and all that is beside it in a browser",
    "sapwood check recipes/": "tests/test_recipes.py",
    "sapwood train recipes/": "tests/test_recipes.py",
    "torchrun --nproc-per-node 4": "tests/crash/test_processes.py",
    "torchrun --nnodes 2": "tests/crash/test_processes.py, in two network namespaces",
    "accelerate launch": "tests/crash/test_processes.py, on a CPU",
    "python -m pip download": "by hand: it fetches gigabytes",
    "podman": "by hand: it needs podman and an image of a hub",
}
SNIPPETS = {  # code of other languages, and what runs it
    ("README", "python"): "tests/test_readme.py",
    ("docs/library", "python"): "tests/test_library.py",
    ("docs/serve", "python"): "tests/endpoint/test_clients.py",
    ("docs/serve", "yaml"): "tests/endpoint/test_clients.py",
    ("docs/data", "json"): "tests/data/test_shapes.py",
}
FENCE = re.compile(r"^```(\w+)\n", re.MULTILINE)


@pytest.mark.parametrize("name", EVERY)
def test_every_command_and_snippet_is_run_by_a_test(name: str) -> None:
    page = name.removesuffix(".md").removesuffix(".zh-CN")
    ran = {said_otherwise(line) for line in lines_of([f"{page}.md" for page in (*PAGES, *FIRST)])}
    for language in FENCE.findall((ROOT / name).read_text(encoding="utf-8")):
        if language != "sh":
            assert (page, language) in SNIPPETS, f"{language}: nothing runs it"
    for line in lines_of([name]):
        known = said_otherwise(line) in ran or line.startswith(tuple(OTHERWISE))
        assert known, f"no test runs {line!r}"


def said_otherwise(line: str) -> str:
    """The same in the other language: what is quoted may differ."""
    return re.sub(r'"[^"]*"', '""', line)


def test_what_runs_the_other_commands_exists() -> None:
    for where in [*OTHERWISE.values(), *SNIPPETS.values()]:
        for file in re.findall(r"tests/\S+\.py", where):
            assert (ROOT / file).is_file(), file
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in lines_of(EVERY):
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


def lines_of(names: Sequence[str]) -> list[str]:
    """The commands of pages, without their comments."""
    lines = "".join(block for name in names for block in blocks(name, "sh")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize(("pages", "least"), [(PAGES, 20), (FIRST, 5)])
def test_the_commands_run_one_after_the_other(
    pages: Sequence[str], least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, in their order, with the tiny model in place of the built-in one. The other language has
    the same ones, see below."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Tree {i}?", "output": f"Water tree {i} well."} for i in range(40)]
    for file in ("my.json", "other.json"):
        Path(file).write_text(json.dumps(rows))
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    table = [f"{row['instruction']},{row['output']}" for row in rows]
    Path("my.csv").write_text("\n".join(["instruction,output", *table]) + "\n")
    model, ran = tiny_llama(tmp_path), 0
    for line in lines_of([f"{page}.md" for page in pages]):
        if line.startswith(tuple(OTHERWISE)):
            continue
        program, *arguments = shlex.split(meant(line, model))
        if program == "torchrun":
            run_in_several(arguments, tmp_path)
        else:
            assert program == "sapwood", line
            run_in_one(arguments)
        config = Path("my.yaml")
        text = re.sub(r"model: \w+:\S+", f"model: {model.name}", config.read_text())  # whichever was proposed
        config.write_text(text if "eval:" in text else f"{text}eval:\n  samples: 1\n  max_new_tokens: 8\n")
        ran += 1
    assert ran >= least
    if pages == PAGES:
        made = ("tokens.html", "runs/*/loss.png", "runs/*/exports/*/check.json", "runs/trackers/mlflow")
        for found in (*made, "both/adapter_model.safetensors", "theirs/sapwood.json"):
            assert list(Path().glob(found)), found


def meant(line: str, model: Path) -> str:
    """The command with what stands for a reader's own things: adapters, a model of a hub."""
    newest = sorted(Path("runs").glob("2*/adapter"))[-1:]
    if "ADAPTER" in line and not Path("theirs").is_dir():  # as another program leaves one
        shutil.copytree(newest[0], "theirs", ignore=shutil.ignore_patterns("sapwood.json", "MANIFEST.json"))
    if " A B " in line:
        shutil.copytree(newest[0], "A")
        shutil.copytree(newest[0], "B")
    return line.replace("ADAPTER", "theirs").replace("hf:ORG/NAME", model.name)


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


@pytest.mark.parametrize("name", EVERY)
def test_every_command_and_key_exists(name: str) -> None:
    from sapwood.cli import app

    verbs = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    verbs |= {group.name for group in app.registered_groups if group.name}
    text = (ROOT / name).read_text(encoding="utf-8")
    told = [*blocks(name, "sh"), *re.findall(r"`([^`\n]+)`", text)]
    found = {verb for one in told for verb in re.findall(r"^sapwood (\w+)", one, flags=re.MULTILINE)}
    assert found <= verbs, found - verbs
    sections = "|".join(RunConfig.model_fields)
    for section, key in re.findall(rf"\b({sections})\.(\w+)=", "\n".join(told)):
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
        said = [[strip.sub("", said_otherwise(line)).split() for line in c.splitlines()] for c in (a, b)]
        assert said[0] == said[1]


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
