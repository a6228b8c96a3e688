"""The verb: config, report, page, template, check; in English and Chinese."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sapwood.cli import app
from sapwood.config.file import load_config
from sapwood.errors import SapwoodError
from sapwood.migrate.read import bring
from tests.migrate.test_rules import CLEAN

ALPACA = """\
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl import SFTTrainer
model = AutoModelForCausalLM.from_pretrained("builtin:smollm2")
tokenizer = AutoTokenizer.from_pretrained("builtin:smollm2")
WORDS = '''Do this.

### Ask:
{}

### More:
{}

### Say:
{}'''


def wording(rows):
    texts = []
    for ask, more, say in zip(rows["ask"], rows["more"], rows["say"]):
        texts.append(WORDS.format(ask, more, say) + tokenizer.eos_token)
    return {"text": texts}


rows = load_dataset("json", data_files="rows.jsonl", split="train").map(wording, batched=True)
SFTTrainer(model=model, train_dataset=rows, peft_config=LoraConfig(r=4, target_modules="all-linear"),
           args=TrainingArguments(output_dir="out")).train()
"""


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["import", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(CLEAN.replace("save_steps=200", "save_steps=5, surprise=1"), encoding="utf-8")
    return path


def test_a_config_is_written_that_loads_with_the_lines_it_is_from(script: Path) -> None:
    out = run(str(script))
    config = load_config("sapwood.yaml")
    assert (config.lora.rank, config.train.lr, config.save.every) == (16, 1e-4, 5)
    assert config.data.columns == {"prompt": "question", "completion": "answer"}
    assert config.template.name == "chatml"
    text = Path("sapwood.yaml").read_text("utf-8")
    assert re.search(r"lr: 0.0001  # learning_rate=0.0001, line \d+", text)
    assert "surprise=1" in out
    assert "checkpoints-unlimited" in out


def test_an_existing_file_is_not_replaced_unless_asked(script: Path) -> None:
    Path("sapwood.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(SapwoodError, match="file exists"):
        run(str(script))
    assert Path("sapwood.yaml").read_text("utf-8") == "mine"
    run(str(script), "--force")
    assert Path("sapwood.yaml").read_text("utf-8") != "mine"


def test_the_report_is_there_in_chinese_as_json_and_as_a_page(script: Path) -> None:
    told = run(str(script), "--lang", "zh")
    assert "其中的错误" in told
    assert "未采用" in told
    facts = json.loads(run(str(script), "--force", "--json", "--html", "report.html"))
    assert facts["settings"]["lora.rank"] == 16
    assert facts["faults"][0]["line"] > 0
    assert any(line["theirs"] == "surprise" and line["matters"] for line in facts["lines"])
    page = Path("report.html").read_text("utf-8")
    assert "checkpoints-unlimited" in page
    assert not re.search(r"(?:src|href)=|<script|@import|url\(", page)


def test_a_page_shows_what_is_brought_as_text_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(
        CLEAN.replace('output_dir="out"', 'output_dir="<script>alert(1)</script>"'), encoding="utf-8"
    )
    run(str(path), "--html", "report.html")
    assert "<script" not in Path("report.html").read_text("utf-8")


def test_a_language_that_is_not_there_is_an_error(script: Path) -> None:
    with pytest.raises(SapwoodError, match="choose en or zh"):
        run(str(script), "--lang", "fr")


def test_rows_beside_the_script_are_found_from_elsewhere(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n', encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    out = run(str(script))
    assert load_config("sapwood.yaml").data.train == (str(tmp_path / "rows.jsonl"),)
    assert "sapwood check sapwood.yaml" in out  # it can't: the model isn't at hand, and nothing is fetched


def test_where_nothing_trains_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text("print('hello')\n", encoding="utf-8")
    with pytest.raises(SapwoodError, match="nothing in it trains"):
        bring(path)


def test_a_template_of_its_own_is_written_out_and_passes_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_spec: object
) -> None:
    """With both columns, and with the second one empty: the text is the one that the script makes."""
    monkeypatch.chdir(tmp_path)
    rows = [{"ask": f"ask {i}?", "more": f"more {i}" if i % 2 else "", "say": f"say {i}."} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("train.py").write_text(ALPACA, encoding="utf-8")
    facts = json.loads(run("train.py", "--json"))
    assert facts["settings"]["data.columns"] == {"prompt": "ask", "completion": "say", "system": "more"}
    assert "error" not in facts["check"], facts["check"]
    assert facts["check"]["rows"]["learnt"] == 40

    from sapwood.prepare.study import study_config

    study = study_config(load_config("sapwood.yaml"))
    first = next(example for example in study.data.train if example.row.index == 1)
    text = (
        study.renderer.decode(first.ids)
        if hasattr(study.renderer, "decode")
        else study.spec.tokenizer.decode(first.ids)
    )
    assert "Do this.\n\n### Ask:\nask 1?\n\n### More:\nmore 1\n\n### Say:\nsay 1." in text
