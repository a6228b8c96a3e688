"""No line of what is brought runs, whatever it holds; and it is read in time."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import pytest

from sapwood.errors import SapwoodError
from sapwood.migrate.read import bring

TRAINS = """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("org/base")
Trainer(model=model, args=TrainingArguments(output_dir="out", num_train_epochs=2)).train()
"""
DEEDS = (
    "open({mark!r}, 'w').write('x')",
    "import os; os.system('touch ' + {mark!r})",
    "import subprocess; subprocess.run(['touch', {mark!r}])",
    "import pathlib; pathlib.Path({mark!r}).touch()",
    "eval('open(' + repr({mark!r}) + ', \"w\")')",
    "exec('open(' + repr({mark!r}) + ', \"w\")')",
    "__import__('os').system('touch ' + {mark!r})",
    "import shutil; shutil.copy(__file__, {mark!r})",
    "(lambda: open({mark!r}, 'w'))()",
    "raise SystemExit(open({mark!r}, 'w'))",
)
PLACES = (
    "{deed}\n{trains}",
    "{trains}\n{deed}",
    "def f():\n    {deed}\nf()\n{trains}",
    "class C:\n    {deed}\n{trains}",
    "@(lambda f: (f(), f)[1])\ndef f():\n    {deed}\n{trains}",
    "if True:\n    {deed}\n{trains}",
    "try:\n    {deed}\nfinally:\n    pass\n{trains}",
    "for _ in range(3):\n    {deed}\n{trains}",
    "def f(x={default}):\n    return x\nf()\n{trains}",
    "def process(example):\n    {deed}\n    return {{'text': example['a'] + example['b']}}\n{trains}",
)


@pytest.mark.parametrize(("deed", "place"), list(itertools.product(DEEDS, PLACES)))
def test_nothing_that_would_run_on_import_runs(deed: str, place: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = deed.format(mark=str(mark))
    default = done.rpartition("; ")[2] if not done.startswith("raise") else "None"
    path = tmp_path / "train.py"
    path.write_text(place.format(deed=done, default=default, trains=TRAINS), encoding="utf-8")
    assert bring(path).draft.settings["base.model"] == "hf:org/base"
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 500 + ")" * 500,
        "x = " + "+".join(["1"] * 5000),
        "def f():\n    return f()\nf()\n",
        "def f(x):\n    return g(x)\ndef g(x):\n    return f(x) + f(x)\nf(1)\n",
        "x = 'a' * 10**12\ny = 10**10**10\nz = [1] * 10**12\nw = (1,) * 10**9\n",
        "while True:\n    x = 1\n",
        "for i in range(10**12):\n    for j in range(10**12):\n        x = i * j\n",
        "x = 1\n" + "x = x * 9999999999\n" * 3000,
        "a = []\na.append(a)\nb = {}\nb['b'] = b\n",
        "x = '%s' * 9 % ('a',)\n'{0.__class__}'.format(x)\n'{'.format()\n",
        "s = 'ab'\n" + "s = s + s\n" * 60,
        "\0",
        "class C(C): pass\n",
        "import\n" * 100,
    ],
)
def test_a_script_made_to_hang_or_to_crash_does_neither(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(text + "\n" + TRAINS, encoding="utf-8")
    start = time.process_time()
    try:
        bring(path)
    except SapwoodError as error:
        assert len(str(error)) < 2000
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "text",
    [
        "x = load()\n" + "x = concat(x, x)\n" * 200,
        "class C:\n    def __init__(self):\n        self.a = self.b = self.c = self\nx = C()\n",
        "class C:\n    def __init__(self):\n        self.a = C()\n        self.b = C()\nx = C()\n",
        "x = []\nx.append(x)\nx.append(x)\n",
        "x, y = [], []\nx.append(y)\ny.append(x)\n",
        "x = {}\nx['a'] = x\n",
        "x = [1]\n" + "x = [x, x]\n" * 80,
        "x = [1] * 4096\n" + "x = [x] * 4096\n" * 5,
        "x = []\n" + "x = [x]\n" * 3000,
        "x = 'a'\n" + "x = [x + x for _ in range(64)]\n" * 30,
    ],
)
def test_rows_that_come_through_themselves_are_followed_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(text + TRAINS.replace("model=model,", "model=model, train_dataset=x,"), encoding="utf-8")
    start = time.process_time()
    assert bring(path).draft.settings["base.model"] == "hf:org/base"
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", ["a.ipynb", "a.py", "a.md", "a.sh", "a.yaml", "a.bin", "a.xyz"])
@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"{" * 3000, b"\x80\x04.", b"%PDF-1.4"])
def test_damaged_files_are_refused_in_words(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SapwoodError) as caught:
        bring(path)
    assert caught.value.problems[0].what


def notebook(cells: int) -> str:
    body = [
        {"cell_type": "code", "source": [f"%time\n!pip install x\nvalue_{i} = {i} + 1\nprint(value_{i})\n"]}
        for i in range(cells)
    ]
    body += [{"cell_type": "code", "source": TRAINS.splitlines(keepends=True)}]
    return json.dumps({"cells": body, "nbformat": 4, "metadata": {}})


def test_a_notebook_of_200_cells_takes_less_than_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "train.ipynb"
    path.write_text(notebook(200), encoding="utf-8")
    start = time.process_time()
    found = bring(path)
    assert time.process_time() - start < 2
    entry = next(e for e in found.draft.entries if e.theirs == "num_train_epochs")
    assert found.source.place(entry.line) == "cell 201 line 4"


def test_values_that_lie_too_deep_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("x = load()\n" + "x = x.a\n" * 3000 + "print(x.b())\n" + TRAINS, encoding="utf-8")
    with pytest.raises(SapwoodError, match="deeper than can be followed"):
        bring(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.py")
    with pytest.raises(SapwoodError, match="no file"):
        bring(tmp_path / "train.py")


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig"])
def test_a_script_that_is_no_utf_8_keeps_its_words(encoding: str, tmp_path: Path) -> None:
    said = "def wording(row):\n    return {'text': '扮演甄嬛' + row['ask'] + ' => ' + row['answer']}\n"
    path = tmp_path / "train.py"
    path.write_bytes((said + TRAINS).replace("\n", "\r\n").encode(encoding))
    assert "扮演甄嬛" in (bring(path).draft.template or "")


def test_a_notebook_of_the_old_format_is_read(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "input": TRAINS}]
    path = tmp_path / "train.ipynb"
    path.write_text(json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}), encoding="utf-8")
    assert bring(path).draft.settings["base.model"] == "hf:org/base"


def test_a_command_that_goes_on_over_lines_is_left_out_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.ipynb"
    source = '!pip install \\\n  "transformers==4.57.6" \\\n  peft\n' + TRAINS
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source}]}), encoding="utf-8")
    found = bring(path)
    assert not found.unfollowed
    assert found.draft.settings["base.model"] == "hf:org/base"


def test_options_of_a_script_name_the_script_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text("accelerate launch --num_processes 4 mine/train.py --lr 1e-4\n", encoding="utf-8")
    with pytest.raises(SapwoodError, match=r"import mine/train\.py"):
        bring(path)
