"""Markup that can't be broken, texts in both languages, curves with their outline, paths that stay inside."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sapwood
from sapwood.config.faults import field_below, help_of
from sapwood.config.file import load_config
from sapwood.config.names import sections_of
from sapwood.config.sections import RunConfig
from sapwood.errors import ConfigError
from sapwood.page import draft
from sapwood.page.drawn.markup import el, join
from sapwood.page.drawn.parts import differing
from sapwood.page.drawn.svg import Line, chart, smooth, sparkline, thin
from sapwood.page.drawn.texts import TEXTS, Words, language
from sapwood.page.places import Places
from sapwood.page.server import open_beside
from sapwood.template.proof import CHECKS
from tests.page.hostile import HOSTILE
from tests.page.shared import made_run

SOURCE = Path(__file__).parents[2] / "src" / "sapwood" / "page"


@pytest.mark.parametrize("text", HOSTILE[::10])
def test_text_stays_text_wherever_it_stands(text: str) -> None:
    made = el("p", text, [text], title=text, data_x=text, cls=text)
    assert made.count("<") == 2 and made.count(">") == 2 and made.count('"') == 6
    assert not re.search("<script|<img|<svg", join([text, differing("", text)]))


def test_none_and_false_leave_an_attribute_out_and_zero_does_not() -> None:
    made = el("pre", "x", tabindex=0, title="", disabled=False, cls=None, data_copy=True)
    assert made == '<pre tabindex="0" title="" data-copy>x</pre>'


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "http://evil.example", "data:text/html,x", "vbscript:x"]
)
def test_an_address_is_ours_or_a_web_pages(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        el("a", "x", href=address)


def test_every_text_is_there_in_both_languages_with_the_same_gaps() -> None:
    for key, (en, zh) in TEXTS.items():
        assert en and zh, key
        assert sorted(re.findall(r"{\w+}", en)) == sorted(re.findall(r"{\w+}", zh)), key


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    asked = [
        node.args[0] for node in nodes if isinstance(node, ast.Call) and node.args and _is_words(node.func)
    ]
    used = {text for key in asked for text in _texts(key) if not isinstance(key, ast.JoinedStr)}
    assert "there" in used and used <= TEXTS.keys(), used - TEXTS.keys()
    written = {text for node in nodes for text in _texts(node)}  # also what a condition or a table chooses
    families = tuple(text for text in written if re.fullmatch(r"[a-z]+\.", text))
    assert not [key for key in TEXTS if key not in written and not key.startswith(families)]


def _is_words(called: ast.expr) -> bool:
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("w", "words")


def _texts(node: ast.AST) -> list[str]:
    """The texts that an expression is, or may be, if a condition chooses."""
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def test_the_checks_of_the_proof_are_told_as_the_proof_tells_them() -> None:
    assert {
        key.removeprefix("check."): en for key, (en, _) in TEXTS.items() if key.startswith("check.")
    } == CHECKS


def test_the_page_explains_each_key_as_the_command_line_does() -> None:
    sections = sections_of(RunConfig)
    keys = [name for name in RunConfig.model_fields if name not in (*sections, "version")]
    keys += [f"{name}.{key}" for name, kind in sections.items() for key in kind.model_fields]
    told = {key: help_of(field_below(RunConfig, key.split("."))) for key in keys}
    assert told == {key[5:]: en for key, (en, _) in TEXTS.items() if key.startswith("help.")}


def test_the_language_is_what_was_chosen_else_the_browsers_first_that_is_ours() -> None:
    assert language("zh", "en") == "zh" and language(None, "fr,zh-CN;q=0.9,en;q=0.8") == "zh"
    assert language(None, "de") == "en" and language("xx", "en-GB") == "en"
    assert Words("zh")("left", time="2m") == "还剩 2m"


def test_a_thinned_curve_keeps_its_highest_and_lowest_values_and_drops_what_is_no_number() -> None:
    x = np.arange(100_000, dtype=np.float64)
    y = np.sin(x / 900)
    y[54_321], y[77_777], y[5] = 9.0, -9.0, np.nan
    tx, ty = thin(x, y, 1000)
    assert len(tx) <= 1000 and ty.max() == 9.0 and ty.min() == -9.0 and np.isfinite(ty).all()
    assert (np.diff(tx) > 0).all()


def test_a_smoothed_curve_is_short_and_lies_within_the_values() -> None:
    x = np.arange(50_000, dtype=np.float64)
    sx, sy = smooth(x, np.where(x % 2, 1.0, 3.0), 0.02)
    assert len(sx) <= 600 and sy.min() > 1.9 and sy.max() < 2.1
    assert sparkline([1.0]) == "" and "polyline" in sparkline([3.0, 2.0, 1.0])
    assert chart([]) == ""


def test_a_chart_has_its_curves_levels_and_numbers_in_the_same_place() -> None:
    x, y = np.array([0.0, 50.0, 100.0]), np.array([4.0, 2.0, 1.0])
    curve, base = Line("loss", x, y, "smooth", dots=True), Line.level("base 3.000", x, 3.0, "base")
    text = chart([curve, base], axis="step", bottom=0.0)
    top = 4.0 + 0.04 * (4.0 - 1.0)
    heights = [round(1000 * (top - value) / top, 1) for value in (4.0, 2.0, 1.0, 3.0)]
    assert f'points="0.0,{heights[0]} 500.0,{heights[1]} 1000.0,{heights[2]}"' in text
    assert f'points="0.0,{heights[3]} 1000.0,{heights[3]}"' in text
    assert f'class="level" style="top:{heights[3] / 10:.2f}%">base 3.000<' in text
    assert 'class="x" style="left:100.00%">100<' in text and 'class="axis">step<' in text
    assert text.count('class="key') == 1, "a level is named where it lies"
    alone = chart([Line("", x, np.full(3, 310.0), "plain")])
    assert 'points="0.0,500.0 500.0,500.0 1000.0,500.0"' in alone


def test_paths_outside_the_folders_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "x").touch()
    (inside / "link").symlink_to(outside / "x")
    places = Places.of(inside / "runs", [inside])
    assert places.allowed(str(inside / "rows.jsonl"), "data.train") == str(inside / "rows.jsonl")
    assert places.allowed("hf:org/name", "base.model") == "hf:org/name"
    for name in (
        str(outside / "x"),
        str(inside / ".." / "out" / "x"),
        str(inside / "link"),
        "/etc/passwd",
        "~",
    ):
        with pytest.raises(ConfigError, match="outside the folders"):
            places.allowed(name, "data.train")
    assert places.run("../out") is None and places.run("") is None


def test_a_draft_is_the_config_that_its_fields_say(tmp_path: Path) -> None:
    settings = {
        "name": "trees",
        "data.train": ["a.jsonl", "b.jsonl"],
        "data.columns": {"prompt": "q"},
        "train.lr": 2e-4,
    }
    text = draft.to_yaml(settings)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "x.yaml")
    assert config.train.lr == 2e-4 and config.data.columns == {"prompt": "q"} and config.name == "trees"
    assert draft.from_yaml(text) == settings
    assert "sapwood init my.yaml --data a.jsonl" in draft.command(settings)
    assert [draft.to_value(text) for text in ("", "3", "1e-4", "[a, b]", "a: b: c")] == [
        None, 3, 1e-4, ["a", "b"], "a: b: c"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="outside the folders"):
        draft.refuse_elsewhere({"data.train": ["/etc/passwd"]}, Places.of(tmp_path, []))


def test_a_notebook_shows_a_run_in_a_frame_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(tmp_path, "plain")
    about = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**about, "name": "<b>name"}), encoding="utf-8")
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda value, **_: shown.append(value))
    sapwood.show("last", tmp_path)  # type: ignore[operator]
    text = shown[0]._repr_html_()
    assert text.startswith("<iframe sandbox") and text.count("<") == 2  # all else is in an attribute, escaped
    assert "&lt;svg" in text and "&amp;lt;b&amp;gt;name" in text and not shown[0].goes_on


def test_train_opens_the_page_of_its_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda words, **_: started.append(words))
    open_beside(Path("elsewhere"))
    assert started[0][1:] == ["-m", "sapwood", "ui", "--runs", "elsewhere"]
