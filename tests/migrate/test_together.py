"""A command and the script or config that it names, read as one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sapwood.errors import SapwoodError
from sapwood.migrate.options.trl import MODEL, SCRIPT
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.write import validated

CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parent / "together.yaml").read_text("utf-8")
)


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def brought(case: dict[str, Any], folder: Path) -> Migration:
    written(folder, case.get("files", {}))
    if "cells" in case:
        cells = [{"cell_type": "code", "source": cell} for cell in case["cells"]]
        (folder / case["bring"]).write_text(json.dumps({"cells": cells}), encoding="utf-8")
    found = bring(folder / case["bring"])
    validated(found.draft)
    return found


def told(found: Migration) -> set[str]:
    return {e.theirs for e in found.draft.entries if e.state == "unread" or e.matters}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["link"].partition("github.com/")[2])
def test_a_command_and_its_script_are_one_run(case: dict[str, Any], tmp_path: Path) -> None:
    found = brought(case, tmp_path)
    got = found.draft.settings
    assert {k: (got.get(k), wanted) for k, wanted in case["facts"].items() if got.get(k) != wanted} == {}
    assert set(case.get("said", ())) <= told(found)
    places = {entry.theirs: found.source.place(entry.line) for entry in found.draft.entries}
    assert {name: places.get(name) for name in case.get("at", {})} == case.get("at", {})
    assert "resists" not in case or any(case["resists"] in one.text for one in found.unfollowed)


# --- the shell --------------------------------------------------------------------------------------------

TRAIN = """\
import argparse
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
parser = argparse.ArgumentParser()
parser.add_argument("--model", default="org/base")
parser.add_argument("--lr", "-l", type=float, default=5e-5)
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--out", default="out")
args = parser.parse_args()
model = get_peft_model(AutoModelForCausalLM.from_pretrained(args.model), LoraConfig(r=args.rank))
Trainer(model, TrainingArguments(args.out, learning_rate=args.lr), train_dataset=[]).train()
"""


def started(text: str, folder: Path, name: str = "go.sh", script: str = TRAIN) -> Migration:
    written(folder, {name: text, "train.py": script})
    return bring(folder / name)


@pytest.mark.parametrize(
    "text",
    [
        "python train.py --lr 3e-4",
        "python3.11 -u train.py \\\n    --lr 3e-4  # so much",
        "LR=3e-4\npython train.py --lr $LR",
        "python train.py --lr ${LR:-3e-4}",
        ": ${LR:=1}\npython train.py --lr ${LR:-3e-4}",
        'LR="3e-4"\nARGS="--rank 8 --lr $LR"\npython train.py $ARGS',
        "ARGS=(--rank 8)\nARGS+=(--lr 3e-4)\npython train.py \"${ARGS[@]}\"",
        'ARGS="--rank 8"\nARGS+=" --lr 3e-4"\npython train.py ${ARGS}',
        "P=3\npython train.py --lr=${P}e-4",
        "P=$((1 + 2))\npython train.py --lr ${P}e-4",
        "WANDB_MODE=disabled CUDA_VISIBLE_DEVICES=0 nohup python train.py -l 3e-4 > log.txt 2>&1 &",
        "srun -n 1 --gres=gpu:1 python train.py --lr 3e-4 | tee log.txt",
        "accelerate launch --num_processes 1 train.py --lr 3e-4",
        "python -m torch.distributed.run --nproc_per_node 1 train.py --lr 3e-4",
        "conda run -n env python train.py --lr 3e-4",
        "uv run train.py --lr 3e-4",
        "bash -c 'python train.py --lr 3e-4'",
        'CMD="python train.py --lr 3e-4"\neval $CMD',
        'CMD="python train.py --lr 3e-4"\n$CMD',
        "run() {\n  python train.py --lr $1\n}\nrun 3e-4",
        "main() {\n  python train.py --lr 3e-4\n}",
        'if [ -z "$LR" ]; then LR=3e-4; fi\npython train.py --lr $LR',
        'A=big\nif [ "$A" = "small" ]; then LR=1; elif [[ $A == big ]]; then LR=3e-4; else LR=2; fi\n'
        "python train.py --lr $LR",
        "A=big\ncase $A in\n small) LR=1 ;;\n b*) LR=3e-4 ;;\n *) LR=2 ;;\nesac\npython train.py --lr $LR",
        'LR=3e-4\nwhile getopts "l:" o; do\n case $o in l) LR=$OPTARG ;; esac\ndone\n'
        "python train.py --lr $LR",
        'LR=${1:-3e-4}\npython train.py --lr "$LR" "${@:2}"',
        "cd /nowhere/at/all && python train.py --lr 3e-4",
        'D="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"\npython "$D/train.py" --lr 3e-4',
        "mkdir -p out || exit 1\npython train.py --lr 3e-4 || echo failed",
        "cat <<EOF\npython train.py --lr 9\nEOF\npython train.py --lr 3e-4\necho python train.py --lr 7",
        "python -c 'print(1)'\npython - <<EOF\nprint(2)\nEOF\npython train.py --lr 3e-4",
    ],
)  # fmt: skip
def test_a_command_is_found_with_its_values_in_every_form_that_shells_have(text: str, tmp_path: Path) -> None:
    assert started(text + "\n", tmp_path).draft.settings["train.lr"] == 3e-4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("go.bat", "@echo off\nrem more\nset LR=3e-4\npython train.py ^\n  --lr %LR%\n"),
        ("go.ps1", "$env:WANDB_MODE = 'off'\n$LR = 3e-4\npython train.py `\n  --lr $LR\n"),
        ("go.md", "It's so:\n\n```console\n$ export LR=3e-4\n$ python train.py --lr $LR\n```\nDon't stop.\n"),
        ("go.txt", "That's how it's done:\n\npython train.py --lr 3e-4 \\\n  --rank 8\n\nDon't stop.\n"),
        ("go.sbatch", "#!/bin/bash\n#SBATCH --gres=gpu:1\npython train.py --lr 3e-4\n"),
    ],
)
def test_other_shells_and_pages_are_read_too(name: str, text: str, tmp_path: Path) -> None:
    assert started(text, tmp_path, name).draft.settings["train.lr"] == 3e-4


def test_a_shell_script_that_starts_another_is_followed(tmp_path: Path) -> None:
    written(
        tmp_path, {"env.sh": "RANK=4\n", "inner.sh": "python train.py --rank $RANK --lr $1 --out $LATE\n"}
    )
    found = started("source env.sh\nexport RANK\nLATE=x\nbash inner.sh 3e-4\nbash gone.sh\n", tmp_path)
    assert (found.draft.settings["lora.rank"], found.draft.settings["train.lr"]) == (4, 3e-4)
    assert "output_dir" in {e.theirs for e in found.draft.entries if "isn't known" in e.en}  # not exported
    assert any("gone.sh" in one.text for one in found.unfollowed)


def test_options_that_a_script_never_looks_at_are_said(tmp_path: Path) -> None:
    given = "args = argparse.Namespace(model='a/b', lr=1e-4, rank=8, out='o')"
    script = TRAIN.replace("args = parser.parse_args()", given)
    found = started("python train.py --lr 3e-4\n", tmp_path, script=script)
    assert found.draft.settings["train.lr"] == 1e-4
    assert "--lr 3e-4" in told(found)


def test_a_page_is_started_by_its_script_and_not_by_what_it_installs(tmp_path: Path) -> None:
    page = (
        "```sh\npython train.py --lr 7e-4\npython -m pip install --upgrade pip\npython ask.py --lr 9\n```\n"
    )
    (tmp_path / "go.md").write_text(page + f"```python\n{TRAIN}```\n", encoding="utf-8")
    found = bring(tmp_path / "go.md")
    assert (found.draft.settings["train.lr"], found.kind) == (
        7e-4,
        "script train.py, as it is started on line 2",
    )


def test_what_a_shell_does_not_say_is_said_with_its_line(tmp_path: Path) -> None:
    text = "R=$(shuf -i 1-9 -n 1)\nif [ -f x ]; then L=1e-4; fi\n"
    text += "python train.py --rank $R --lr $L --out <yours>\n"
    found = started(text, tmp_path)
    assert "lora.rank" not in found.draft.settings
    assert found.draft.settings["train.lr"] == 1e-4
    assert "save.dir" not in found.draft.settings
    assert {"r", "--rank", "--out"} <= told(found)
    assert [found.source.place(one.line) for one in found.unfollowed if "[ -f x ]" in one.text] == ["line 2"]


def test_other_commands_of_a_page_are_said(tmp_path: Path) -> None:
    written(tmp_path, {"other.py": TRAIN})
    text = "python other.py --lr 1e-3\npython train.py --lr 2e-3\npython show.py\n"
    found = started(text, tmp_path)
    assert found.draft.settings["train.lr"] == 2e-3
    said = [one for one in found.unfollowed if "another command" in one.en]
    assert [(one.line, one.text) for one in said] == [(1, "python other.py --lr 1e-3")]


def test_a_page_that_trains_by_itself_is_not_left_for_a_command(tmp_path: Path) -> None:
    page = f"```python\n{TRAIN}```\n\n```bash\npython mine.py --lr 7e-4\npython train.py --lr 1e-3\n```\n"
    found = started(page, tmp_path, "go.md")
    assert found.draft.settings["train.lr"] == 7e-4
    assert any("train.py --lr 1e-3" in one.text for one in found.unfollowed)


DEEDS = (
    "touch {mark}", "x=$(touch {mark})", "x=`touch {mark}`", "eval 'touch {mark}'", "bash -c 'touch {mark}'",
    "source <(echo touch {mark})", "python -c \"open('{mark}', 'w')\"",
    "python - <<EOF\nopen('{mark}', 'w')\nEOF",
    "trap 'touch {mark}' EXIT", "f() {{ touch {mark}; }}; f", "echo > {mark}", "[ $(touch {mark}) ] && LR=1",
)  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_nothing_of_a_shell_script_runs(deed: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = started(f"{deed.format(mark=mark)}\npython train.py --lr 3e-4\n", tmp_path)
    assert found.draft.settings["train.lr"] == 3e-4
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "f() { f; f; }\nf\n",
        "while true; do :; done\n",
        "x=1\n" + "x=$x$x\n" * 200,
        "x=(1)\n" + 'x=("${x[@]}" "${x[@]}")\n' * 100,
        "(" * 500 + "\n",
        "$(" * 300 + "\n",
        "if " * 300 + "\n",
        "bash go.sh\nsource go.sh\n",
        "eval eval eval eval eval eval eval eval eval eval eval $x\n",
        "for a in " + "b " * 50_000 + "; do :; done\n",
    ],
)
def test_a_shell_script_made_to_hang_or_to_crash_does_neither(text: str, tmp_path: Path) -> None:
    start = time.process_time()
    with contextlib.suppress(SapwoodError):
        started(text + "\npython train.py --lr 3e-4\n", tmp_path)
    assert time.process_time() - start < 10


# --- parsers ----------------------------------------------------------------------------------------------

SHAPES = {
    "a type of its own": ('p.add_argument("--lr", type=lambda s: float(s) / 2)', "--lr 6e-4"),
    "an alias": ('p.add_argument("-r", "--learning-rate", dest="lr", type=float)', "-r 3e-4"),
    "an abbreviation": ('p.add_argument("--lr_of_it", dest="lr", type=float)', "--lr_of 3e-4"),
    "a place": ('p.add_argument("lr", type=float)', "3e-4"),
    "a list": ('p.add_argument("--lr", nargs="+", type=float)\np.set_defaults(at=0)', "--lr 3e-4 1"),
    "a constant": ('p.add_argument("--low", dest="lr", action="store_const", const=3e-4)', "--low"),
    "a parent": (
        'q = argparse.ArgumentParser(add_help=False)\nq.add_argument("--lr", type=float)\n'
        "p = argparse.ArgumentParser(parents=[q])",
        "--lr 3e-4",
    ),
    "a subcommand": (
        's = p.add_subparsers(dest="what")\nq = s.add_parser("fit")\nq.add_argument("--lr", type=float)\n'
        'r = s.add_parser("ask")\nr.add_argument("--lr", type=float)',
        "fit --lr 3e-4",
    ),
    "what isn't known to it": ('p.add_argument("--lr", type=float)', "--lr 3e-4 --more 1"),
    "a loop": ('for n in ("lr", "at"):\n    p.add_argument(f"--{n}", type=float)', "--lr 3e-4"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_argparse_gives_what_the_command_says(shape: str, tmp_path: Path) -> None:
    declared, words = SHAPES[shape]
    value = "args.lr[0]" if shape == "a list" else "args.lr"
    script = TRAIN.split("parser =")[0] + (
        f"p = argparse.ArgumentParser()\n{declared}\nargs, rest = p.parse_known_args()\n"
        "Trainer(get_peft_model(AutoModelForCausalLM.from_pretrained('a/b'), LoraConfig(r=8)),\n"
        f"        TrainingArguments('out', learning_rate={value}), train_dataset=[]).train()\n"
    )
    found = started(f"python train.py {words}\n", tmp_path, script=script)
    assert found.draft.settings["train.lr"] == 3e-4
    assert ("--more" in told(found)) == (shape == "what isn't known to it")


def test_truth_is_read_as_argparse_reads_it(tmp_path: Path) -> None:
    """``type=bool`` is true for every word, "False" too; a function of the script is followed."""
    script = TRAIN.replace(
        "args = parser",
        'parser.add_argument("--a", type=bool, default=False)\n'
        'parser.add_argument("--b", type=lambda s: s.lower() == "true", default=True)\n'
        'parser.add_argument("--c", action="store_false")\nargs = parser',
    ).replace("learning_rate=args.lr", "fp16=args.a, bf16=args.b, gradient_checkpointing=args.c")
    found = started("python train.py --a False --b False --c\n", tmp_path, script=script)
    values = {entry.theirs: entry.value for entry in found.draft.entries}
    assert (values["fp16"], values["bf16"], values["gradient_checkpointing"]) == ("True", "False", "False")


@pytest.mark.parametrize(
    "loads",
    [
        "import yaml\nc = yaml.safe_load(open(args.config))\nlr, rank = c['lr'], c['lora']['r']",
        "import yaml\nwith open(args.config) as f:\n    c = yaml.load(f, Loader=yaml.FullLoader)\n"
        "lr, rank = c.get('lr'), c['lora']['r']",
        "from omegaconf import OmegaConf\nc = OmegaConf.load(args.config)\nlr, rank = c.lr, c.lora.r",
        "import json\nfrom pathlib import Path\nc = json.loads(Path(args.config).read_text())\n"
        "lr, rank = c['lr'], c['lora']['r']",
    ],
)
def test_a_config_that_the_command_names_is_followed(loads: str, tmp_path: Path) -> None:
    text = '{"lr": 3e-4,\n "lora":\n  {"r": 4}}' if "json" in loads else "lr: 3e-4\nlora:\n  r: 4\n"
    script = TRAIN.replace("args = parser", 'parser.add_argument("--config")\nargs = parser')
    script = script.replace("model = get", f"{loads}\nmodel = get").replace("args.rank", "rank")
    script = script.replace("args.lr", "lr")
    written(tmp_path, {"scripts/conf/a.json" if "json" in loads else "scripts/conf/a.yaml": text})
    written(tmp_path, {"scripts/train.py": script})
    name = "conf/a.json" if "json" in loads else "conf/a.yaml"
    (tmp_path / "go.sh").write_text(f"python scripts/train.py --config {name}\n", encoding="utf-8")
    got = bring(tmp_path / "go.sh").draft.settings
    assert (got["train.lr"], got["lora.rank"]) == (3e-4, 4)


def test_a_config_that_is_not_there_leaves_no_default(tmp_path: Path) -> None:
    script = TRAIN.replace(
        "model = get", "import yaml\nargs.lr = yaml.safe_load(open('gone.yaml'))['lr']\nmodel = get"
    )
    found = started("python train.py\n", tmp_path, script=script)
    assert "train.lr" not in found.draft.settings
    assert "learning_rate" in told(found)


def test_modules_beside_a_script_are_followed_and_nothing_of_them_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    written(
        tmp_path,
        {
            "settings.py": f"RATE = 3e-4\nopen({str(mark)!r}, 'w')\n"
            "if __name__ == '__main__':\n    RATE = 1\n",
            "parts/__init__.py": "from .made import options\n",
            "parts/made.py": "from settings import *\nSEED = 7\n\n"
            "def options():\n    return {'learning_rate': RATE}\n",
            "torch.py": "raise SystemExit\n",
        },
    )
    script = TRAIN.replace("import argparse", "import argparse\nimport parts, parts.made as made").replace(
        "learning_rate=args.lr", "**parts.options(), seed=made.SEED"
    )
    got = started("python train.py\n", tmp_path, script=script).draft.settings
    assert (got["train.lr"], got["train.seed"]) == (3e-4, 7)
    assert not mark.exists()


def test_trls_own_command_is_read_by_what_it_does(tmp_path: Path) -> None:
    words = "--model_name_or_path org/base --dataset_name org/rows --use_peft --lora_r 4 --report_to wandb"
    (tmp_path / "go.sh").write_text(f"export WANDB_PROJECT=mine\ntrl sft {words} --odd 1\n", encoding="utf-8")
    found = bring(tmp_path / "go.sh")
    wanted = {"base.model": "hf:org/base", "data.train": ["hf:org/rows"], "lora.rank": 4, "lora.alpha": 32,
              "train.lr": 2e-5, "track.to": ["wandb"], "track.project": "mine"}  # fmt: skip
    assert {key: found.draft.settings.get(key) for key in wanted} == wanted
    assert "odd" in told(found)


@pytest.mark.parametrize(("name", "ours"), [("ModelConfig", MODEL), ("ScriptArguments", SCRIPT)])
def test_trls_options_have_its_defaults(name: str, ours: dict[str, Any]) -> None:
    trl = pytest.importorskip("trl", reason="trl isn't installed")
    theirs = {field.name: field.default for field in dataclasses.fields(getattr(trl, name))}
    assert {key: ours[key] for key in theirs} == theirs


# --- other tools ------------------------------------------------------------------------------------------


AXOLOTL = "base_model: a/b\nadapter: lora\nlora_r: 4\n"


@pytest.mark.parametrize(
    ("command", "config", "key", "place"),
    [
        ("llamafactory-cli train {} learning_rate=3e-4", "model_name_or_path: a/b\nlora_rank: 4\n",
         "lora_rank", "line 2"),
        ("axolotl train {} --learning-rate 3e-4", AXOLOTL, "lora_r", "line 3"),
        ("accelerate launch -m axolotl.cli.train {} --learning_rate=3e-4", AXOLOTL, "lora_r", "line 3"),
        ("python -m axolotl.cli.train {} --learning_rate 3e-4", AXOLOTL, "lora_r", "line 3"),
        ("mlx_lm.lora --config {} --learning-rate 3e-4", "model: a/b\nlora_parameters:\n  rank: 4\n",
         "lora_parameters.rank", "line 3"),
        ("tune run --nproc_per_node 1 lora_finetune_distributed --config {} optimizer.lr=3e-4",
         "model:\n  _component_: torchtune.models.llama3.lora_llama3_8b\n  lora_rank: 4\n",
         "model.lora_rank", "line 3"),
    ],
)  # fmt: skip
def test_a_config_that_a_tools_command_names_keeps_its_own_lines(
    command: str, config: str, key: str, place: str, tmp_path: Path
) -> None:
    written(tmp_path, {"conf/mine.yaml": config})
    written(tmp_path, {"scripts/go.sh": f"CONF=conf/mine.yaml\n{command.format('$CONF')}\n"})
    found = bring(tmp_path / "scripts" / "go.sh")
    entry = next(e for e in found.draft.entries if e.theirs == key)
    assert found.source.place(entry.line) == f"../conf/mine.yaml {place}"
    assert (found.draft.settings["lora.rank"], found.draft.settings["train.lr"]) == (4, 3e-4)


def test_a_tools_word_that_is_not_known_is_said(tmp_path: Path) -> None:
    (tmp_path / "go.sh").write_text(
        "swift sft --model $MODEL --lora_rank 4 --max_length 512\n", encoding="utf-8"
    )
    found = bring(tmp_path / "go.sh")
    assert "base.model" not in found.draft.settings
    assert "model" in told(found)
