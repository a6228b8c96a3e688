"""The five tutorials: each fault by name and line, and none else; each knob that the text sets; the pages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sapwood.config.file import parse_config
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.rules import CHECKS, texts
from sapwood.migrate.script.source import read_source
from sapwood.migrate.write import validated
from tests.test_knobs import CALLS, KNOBS, TUTORIALS, known, script

ROOT = Path(__file__).parents[2]

# Read by hand, line by line; the numbers in the comments are those of the tutorials' catalogue of faults.
EXPECTED: dict[str, dict[str, list[int]]] = {
    "000": {
        "answer-by-string": [199], "decode-keeps-tags": [198],  # 1
        "template-drift": [71], "end-doubled": [73], "pad-as-end": [73],  # 2
        "gemma2-sdpa": [106],  # 4
        "pad-is-eos": [103],  # 5
        "answer-cut-with-end": [77], "comment-of-another-model": [69],  # 6
        "fields-glued": [71], "null-field": [71],  # 7
        "checkpoints-unlimited": [149],  # 8
        "fixed-checkpoint": [180], "no-held-out": [159],  # 9
        "adapter-never-attached": [121], "checkpointing-no-input-grad": [152], "undefined-name": [162],  # 10
        "save-on-each-node": [151],  # 11
        "no-seed": [143],  # 12
        "device-map-differs": [186],  # 13
        "generate-no-mask": [197],  # 14
        "base-unpinned": [16], "remote-code-needless": [186],
    },
    "001": {
        "end-of-turn-not-learnt": [85], "pad-as-end": [86],  # 1
        "adapter-config-replaced": [261],  # 2
        "slow-tokenizer": [118],  # 3
        "output-names-other-model": [162],  # 4
        "special-tokens-again": [271],  # 5
        "tracker-asks-key": [213], "report-to-all": [161],  # 6
        "device-hard-coded": [271], "shown-template-differs": [104],  # 7
        "comment-of-another-model": [82],  # 8
        "answer-cut-with-end": [90], "fields-glued": [84], "null-field": [84],  # 9: those of 000
        "adapter-never-attached": [137], "checkpointing-no-input-grad": [170], "undefined-name": [218],
        "save-on-each-node": [169], "no-seed": [161], "no-such-dtype": [115],
        "import-gone": [211], "no-held-out": [215], "remote-code-needless": [118], "template-drift": [84],
    },
    "002": {
        "ignore-by-pad-id": [110, 114],  # 1
        "only-prompt-cut": [104, 106],  # 2
        "negative-padding": [111],  # 3
        "padded-to-constant": [112], "collator-pads-nothing": [151], "no-attention-mask": [116],  # 4
        "4bit-no-compute-dtype": [51], "kbit-not-prepared": [56],  # 5
        "template-differs": [102],  # 6
        "encode-of-ids": [107],  # 7
        "null-field": [104], "column-always-there": [103],  # 8
        "private-pandas-append": [81], "open-without-encoding": [78], "bad-line-unnamed": [80],  # 9
        "targets-by-default": [39],  # 10
        "adapter-without-tokenizer": [163], "saved-among-checkpoints": [163],  # 11
        "remote-code-unpinned": [50, 95],  # 12
        "argument-gone": [51], "base-unpinned": [49], "lr-default": [134], "no-held-out": [155],
        "no-seed": [134],
    },
    "003": {
        "pad-is-eos-unlearnt": [121],  # 1
        "bos-twice": [159],  # 2
        "loss-on-prompt": [155],  # 3
        "answer-cut-with-end": [160],  # 4
        "scale-low": [133], "targets-by-default": [132],  # 5
        "compute-dtype-alone": [93],  # 6
        "pickle-data": [46], "text-by-line": [44],  # 7
        "remote-code-needless": [107, 120],  # 8
        "argument-gone": [159, 160, 161],  # 9
        "one-checkpoint": [150], "no-held-out": [155],  # 10
        "undefined-name": [70, 103, 145], "adapter-without-tokenizer": [167],
        "saved-among-checkpoints": [167],
        "no-seed": [144],
    },
    "004": {
        "pad-is-eos-unlearnt": [72], "bos-twice": [122], "loss-on-prompt": [118], "chat-on-base": [62],  # 1
        "two-compute-dtypes": [50],  # 2
        "no-such-dtype": [57],  # 3
        "hidden-length": [123],  # 4
        "report-misdescribed": [105],  # 5
        "argument-gone": [103, 122, 123, 124],  # 6
        "no-loss-record": [105], "no-held-out": [118], "adapter-without-tokenizer": [133],
        "base-unpinned": [62],  # 7
        "targets-by-default": [78],  # 8
        "optimizer-needs-cuda": [99],  # 9
        "remote-code-needless": [71], "no-seed": [92],
    },
}  # fmt: skip


def tutorial(number: str) -> Path:
    found = sorted(TUTORIALS.glob(f"{number}_*.txt"))
    if not found:
        pytest.skip("the tutorials' texts are not here")
    return found[0]


def brought(number: str) -> Migration:
    found = bring(tutorial(number))
    validated(found.draft)
    return found


@pytest.mark.parametrize("number", EXPECTED)
def test_every_fault_is_named_by_its_line_and_nothing_else_is(number: str) -> None:
    found: dict[str, list[int]] = {}
    for fault in brought(number).faults:
        found.setdefault(fault.name, []).append(fault.line)
    assert found == EXPECTED[number]


def test_there_are_at_least_forty_rules_and_each_has_its_texts() -> None:
    assert set(CHECKS) == set(texts())
    assert len(CHECKS) >= 40
    for name, (level, en, zh, source) in texts().items():
        assert level in ("fault", "note"), name
        assert en and zh and source and en != zh, name


def arguments(path: Path) -> set[str]:
    """Names that the calls of the configured libraries are given, comments aside."""
    wanted = set(CALLS.split())
    return {
        keyword.arg
        for tree in read_source(path).trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in wanted
        for keyword in node.keywords
        if keyword.arg is not None
    }


@pytest.mark.parametrize("number", EXPECTED)
def test_every_knob_that_the_text_sets_is_taken_over_or_answered(number: str) -> None:
    """By the key that the table of knobs has for it."""
    entries = brought(number).draft.entries
    keys = {name: knob.keys for knob in KNOBS for name in knob.names}
    told: dict[str, set[str]] = {}
    for entry in entries:
        told.setdefault(entry.theirs, set()).add(entry.key)
    wanted = arguments(tutorial(number)) & known()
    assert wanted
    silent = {"path", "data_files", "pretrained_model_name_or_path", "padding"}  # told under the call's name
    assert not wanted - set(told) - silent
    for name in wanted & set(told):
        ours = {key for key in told[name] if key}
        assert not keys[name] or not ours or ours <= {*keys[name], "lora.method", "base.compute_dtype"}, name


@pytest.mark.parametrize("number", EXPECTED)
def test_the_config_is_one(number: str) -> None:
    settings = brought(number).draft.settings
    tree: dict[str, dict[str, object]] = {"data": {"train": "data.jsonl"}}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    config = parse_config(tree)
    assert config.lora.rank in (8, 16, 64)


def test_the_pages_are_what_the_command_makes() -> None:
    tutorial("000")
    pages = script("tutorials").pages()
    assert len(pages) == 10
    for name, page in pages.items():
        assert (ROOT / "docs" / "tutorials" / name).read_text("utf-8") == page, (
            "run: python docs/tutorials.py"
        )
