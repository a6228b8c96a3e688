"""What ARCHITECTURE.md says, held against the code: folders, words, layers, doors and lazy imports."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "sapwood"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
MOST_FILES, MOST_AT_THE_TOP = 16, 9

# Imports point down this list; what stands on one line never imports each other.
LAYERS = (
    {"__main__", "__init__"},
    {"cli"},
    {"page"},
    {"commands"},
    {"restart", "migrate", "endpoint"},
    {"pipeline"},
    {"evaluate"},
    {"plan"},
    {"train"},
    {"answers"},
    {"export"},
    {"prepare", "serve"},
    {"show", "trackers"},
    {"adapter"},
    {"compute"},
    {"base"},
    {"gguf", "pack", "template"},
    {"data", "run", "engine"},
    {"machine", "scores"},
    {"config"},
    {"native"},
    {"machine/shortage"},
    {"types", "errors"},
    {"machine/system", "machine/doing"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

DOORS = {
    "transformers": {
        "template/render",
        "template/environment",
        "compute/attention/seam",
        "base/inspect",
        "base/chatglm",
        "base/network/parts",
        "base/tokenizer",
        "base/write",
        "base/storage/bnb_linear",
        "train/trial",
        "gguf/settled",
        "serve/rows",
        "export/merge",
    },
    "bitsandbytes": {"base/storage/bnb_linear", "train/optim"},
    "peft": {
        *(
            f"adapter/{name}"
            for name in ("forms", "methods", "places/targets", "combine", "elsewhere/restore")
        ),
        "compute/linear/layer",
        "train/trial",
    },
    "datasets": {"data/files/hub"},
    "tree_sitter": {"migrate/shell/grammar"},
    "nicegui": {
        *(f"page/{name}" for name in ("server", "routes", "shell")),
        *(
            f"page/screens/{name}"
            for name in ("answers", "chat", "compare", "data", "home", "job", "machine")
        ),
        *(f"page/screens/{name}" for name in ("new", "plots", "run", "ship")),
    },
    "fastapi": {"page/routes", "page/server"},
    "plotille": {"show/curve"},
    "sacrebleu": {"scores"},
    "portalocker": {"run/lock", "base/builtin"},
    "xllamacpp": {"engine/child"},
    "aiohttp": {"engine/llama"},
    "uvicorn": {"endpoint/server", "page/server"},
    "prometheus_client": {"endpoint/metrics"},
    "llguidance": {"endpoint/api/grammar"},
    **{name: {f"trackers/{name}"} for name in ("swanlab", "tensorboard", "wandb", "trackio", "mlflow")},
    "torch.distributed": {f"train/processes/{name}" for name in ("world", "shard", "vocabulary")},
}
BANNED = {"pickle", "marshal", "shelve", "dill", "requests", "urllib.request"}
# `sapwood data convert` opens pickles in a process of its own, which gives up its rights first.
ALLOWED = {"data/files/unpickle": {"pickle"}}
# An old adapter's tensors are read so too, by torch's restricted reader.
CALLED = {"adapter/elsewhere/unpickle": {"torch.load"}}


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").as_posix()


def unit(name: str) -> str:
    """The folder or module that has a layer; one file of a folder has one of its own."""
    return next(
        (known for known in LEVEL if "/" in known and f"{name}/".startswith(f"{known}/")), name.split("/")[0]
    )


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports; with ``top_level_only``, those that importing it imports."""
    tree = tree_of(path)
    found: set[str] = set()
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = unit(name_of(path))
    for imported in imports(path):
        if not imported.startswith("sapwood."):
            continue
        there = unit("/".join(imported.split(".")[1:]))
        if there == here or there not in LEVEL:
            continue
        assert LEVEL[here] < LEVEL[there], f"{name_of(path)} imports {imported}"


def test_every_module_has_a_layer() -> None:
    assert {unit(name_of(path)) for path in modules()} <= set(LEVEL)


def folders() -> dict[str, list[Path]]:
    """The Python files of each folder, by its path below the source."""
    found: dict[str, list[Path]] = {}
    for path in modules():
        found.setdefault(path.parent.relative_to(SRC).as_posix(), []).append(path)
    return found


def test_no_folder_is_crowded() -> None:
    crowded = {folder: len(files) for folder, files in folders().items() if len(files) > MOST_FILES}
    assert not crowded
    assert len(folders()["."]) <= MOST_AT_THE_TOP


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {name_of(path).removesuffix("/__init__").replace("/", "."): path for path in modules()}
    graph = {
        name: {word.removeprefix("sapwood.") for word in imports(path)} & names.keys() - {name}
        for name, path in names.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# --- the page ----------------------------------------------------------------------------------------------


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_folder_is_in_the_table_and_every_name_in_the_table_is_a_folder() -> None:
    told = re.findall(r"^\| `([a-z_/]+)/` \|", section("The folders, in the order of the data"), re.M)
    assert sorted(told) == sorted(set(folders()) - {"."})


def test_every_file_that_the_page_names_exists() -> None:
    page = PAGE.split("## The run directory")[0]
    names = re.findall(r"`([\w/]+(?:\.(?:py|cpp|md)|/))`", page) + re.findall(r"\]\(([\w/.-]+)\)", page)
    assert len(names) > 40
    assert not [name for name in names if not (SRC / name).exists() and not (ROOT / name).exists()]


@pytest.mark.parametrize("word", re.findall(r"\| `([\w.]+)` \|$", section("Glossary"), re.M))
def test_every_word_of_the_glossary_has_its_place(word: str) -> None:
    module, _, name = word.rpartition(".")
    assert hasattr(importlib.import_module(f"sapwood.{module}"), name)


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_few_doors(library: str) -> None:
    through = {
        name_of(path)
        for path in modules()
        if any(imported == library or imported.startswith(f"{library}.") for imported in imports(path))
    }
    assert through <= DOORS[library]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_that_can_run_a_file_is_used(path: Path) -> None:
    assert imports(path) & BANNED == ALLOWED.get(name_of(path), set())
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        banned = {"eval", "exec", "torch.load", "os.system", "yaml.load"} - CALLED.get(name_of(path), set())
        assert called not in banned, called
        assert not any(k.arg == "shell" for k in node.keywords), ast.unparse(node)


def test_the_modules_that_open_pickles_are_run_and_never_imported() -> None:
    opening = {f"sapwood.{name.replace('/', '.')}" for name in (*ALLOWED, *CALLED)}
    assert not [name_of(path) for path in modules() if opening & imports(path)]


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    ["import sapwood", "import sapwood.cli", "import sapwood.types", "from sapwood import load_config"],
)
def test_imports_that_stay_light(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "peft", "matplotlib", "numpy.random.mtrand"} - (
        {"numpy.random.mtrand"} if "types" in code or "load_config" in code else set()
    )


def test_help_loads_nothing_heavy() -> None:
    code = "import contextlib, sapwood.cli as c\nwith contextlib.suppress(SystemExit): c.app(['-h'])"
    assert not loaded_after(code) & {"torch", "transformers", "peft", "numpy", "pydantic", "rich.console"}
