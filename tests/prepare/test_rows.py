from __future__ import annotations

import json

import numpy as np
import pytest

from sapwood.config.sections import TemplateConfig
from sapwood.errors import DataError
from sapwood.prepare import faults
from sapwood.prepare.report import prepare
from sapwood.prepare.rows import BATCH
from sapwood.template.render import Renderer
from sapwood.types import Conversation, RowId
from tests.base.tiny import CHATML
from tests.template.cases import THINKING, chat, tiny
from tests.template.real_tokenizers import real_tokenizer

CONFIG = TemplateConfig()
DROP = TemplateConfig(overlong="drop")
CUT = TemplateConfig(overlong="cut")


def run(rows, renderer=None, config=CONFIG, max_length=200, vocab_rows=700):
    return prepare(iter(rows), renderer or tiny(), config, max_length=max_length, vocab_rows=vocab_rows)


def test_examples_come_in_the_order_of_their_rows_over_batches():
    rows = [chat(f"q{i}", "a" * (i % 7 + 1), index=i) for i in range(BATCH + 3)]
    prepared = run(rows)
    assert [example.row.index for example in prepared.examples] == list(range(BATCH + 3))
    assert prepared.proof.examples == prepared.report.examples == BATCH + 3


def test_the_report_counts_tokens():
    rows = [chat("q", "word " * n, index=n) for n in (1, 2, 3, 40, 41, 42, 43)]
    prepared = run([*rows, chat("<|im_start|>", "x", index=50)])
    report = prepared.report
    assert (report.rows, report.examples, report.dropped, report.control_rows) == (8, 8, 0, 1)
    assert report.tokens == sum(len(example) for example in prepared.examples) == prepared.proof.tokens
    assert report.targets == sum(example.num_targets for example in prepared.examples)
    assert sum(count for _, count in report.histogram) == 8
    assert report.histogram[0][1], "it begins where the examples do"
    for (bound, count), floor in zip(report.histogram, (0, *(b for b, _ in report.histogram)), strict=False):
        assert count == sum(floor < len(example) <= bound for example in prepared.examples)
    assert [row.index for _, row in report.longest][:4] == [43, 42, 41, 40]
    assert len(report.longest) == 5
    characters = sum(len(tiny().render(row)[0].text) for row in [*rows, chat("<|im_start|>", "x")])
    assert report.characters_per_token == pytest.approx(characters / report.tokens)
    facts = json.loads(json.dumps(report.to_json()))
    assert facts["longest"][0] == {"tokens": report.longest[0][0], "row": "data.json:44"}


def test_rows_of_two_files_may_be_equally_long():
    rows = [Conversation(RowId(name, 0), chat("q", "a").messages) for name in ("b.json", "a.json")]
    assert {row.source for _, row in run(rows).report.longest} == {"a.json", "b.json"}


def test_overlong_rows_stop_the_run_with_both_remedies():
    rows = [chat("q", "word " * n, index=n) for n in (1, 80, 90)]
    with pytest.raises(DataError) as error:
        run(rows, max_length=64)
    (problem,) = error.value.problems
    longest = max(len(example) for example in run(rows, max_length=999).examples)
    assert problem.what == "[overlong] 2 of 3 examples have more than 64 tokens"
    assert problem.where.startswith(f"data.json:91 ({longest} tokens), data.json:81")
    needed = -(-longest // 64) * 64
    remedy = f"set pack.length={needed} (the longest needs {longest}), or template.overlong=drop, or =cut"
    assert problem.mend == remedy
    assert len(run(rows, max_length=needed).examples) == 3


def test_a_row_is_cut_where_the_config_says_so_and_never_ends_in_a_false_stop():
    rows = [chat("q", "word " * 80, index=0), chat("q", "short", index=1), chat("word " * 90, "a", index=2)]
    whole = run(rows, max_length=999)
    prepared = run(rows, config=CUT, max_length=64)
    long, short = prepared.examples
    assert len(long) == 64
    assert long.ids.tolist() == whole.examples[0].ids[:64].tolist()
    assert not {*tiny().stop_ids} & {*long.ids[long.trained].tolist()}, "it was cut inside its answer"
    assert short.ids.tolist() == whole.examples[1].ids.tolist()
    report = prepared.report
    assert (report.cut, report.cut_answers, report.dropped) == (1, 1, 1)
    assert [row.index for row in report.cut_rows] == [0]
    assert [row.index for row in report.dropped_rows] == [2], "its prompt fills the length: nothing to learn"
    assert report.tokens == len(long) + len(short)
    assert prepared.proof.accepted == {code: {"rows": 1, "first": "data.json:1"} for code in ("cut", "stop")}
    assert not {"cut", "stop"} & {*prepared.proof.codes}
    assert json.loads(json.dumps(report.to_json()))["cut_rows"] == ["data.json:1"]


def test_whole_answers_before_a_cut_keep_their_stop():
    rows = [chat("q", "a", "word " * 90, "b")]
    prepared = run(rows, config=CUT, max_length=64)
    (example,) = prepared.examples
    alone = run([chat("q", "a")]).examples[0]
    kept = int(np.flatnonzero(alone.trained)[-1]) + 1
    assert example.ids.tolist() == alone.ids[:kept].tolist(), "the question without its answer is left out"
    assert example.ids[-1] == tiny().stop_id
    assert prepared.proof.accepted == {"cut": {"rows": 1, "first": "data.json:1"}}
    assert "stop" in prepared.proof.codes


def test_what_is_cut_is_proven_as_a_whole():
    with pytest.raises(DataError, match=r"\[vocabulary\]"):
        run([chat("q", "word " * 80)], config=CUT, max_length=64, vocab_rows=3)


def test_where_nothing_fits_a_cut_is_no_answer():
    with pytest.raises(DataError, match=r"\[overlong\] 1 of 1"):
        run([chat("word " * 80, "a")], config=CUT, max_length=16)


def test_overlong_rows_are_dropped_and_counted_when_asked():
    rows = [chat("q", "word " * n, index=n) for n in (80, 1, 90)]
    prepared = run(rows, config=DROP, max_length=64)
    assert [example.row.index for example in prepared.examples] == [1]
    assert (prepared.report.rows, prepared.report.dropped) == (3, 2)
    assert [row.index for row in prepared.report.dropped_rows] == [80, 90]


def test_rows_that_are_dropped_are_told_in_their_order_however_they_were_prepared():
    contents = ["word " * 80, "a", "<|im_end|> " * 80, "b", "word " * 90]
    rows = [chat("q", text, index=n) for n, text in enumerate(contents)]
    prepared = run(rows, config=DROP, max_length=64)
    assert [row.index for row in prepared.report.dropped_rows] == [0, 2, 4]
    assert [example.row.index for example in prepared.examples] == [1, 3]


def test_dropping_everything_is_an_error():
    with pytest.raises(DataError, match="1 of 1 examples have more than 16"):
        run([chat("q", "word " * 80)], config=DROP, max_length=16)


def test_a_row_at_the_limit_fits():
    (example,) = run([chat("q", "a")]).examples
    assert len(run([chat("q", "a")], max_length=len(example)).examples) == 1
    with pytest.raises(DataError, match="overlong"):
        run([chat("q", "a")], max_length=len(example) - 1)


def test_all_problems_of_all_rows_are_told_at_once():
    template = CHATML + "{% if messages[0].content == 'bad' %}{{ raise_exception('bad row') }}{% endif %}"
    rows = [
        chat("bad", "a", index=0),
        chat("no answer", index=1),
        chat("q", "fine", index=2),
        chat("q", "\nstraddles", index=3),
        chat("<|im_end|>", "\U00100000", index=4),
        chat("q", "word " * 300, index=5),
    ]
    with pytest.raises(DataError) as error:
        run(rows, Renderer(real_tokenizer("qwen1_5"), template), vocab_rows=152_000)
    found = [problem.what.split("]")[0].strip("[") for problem in error.value.problems]
    assert sorted(found) == ["boundary", "control", "no-target", "overlong", "template"]


def test_no_rows_at_all_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        run([])


def test_after_so_many_problems_nobody_reads_on(monkeypatch):
    monkeypatch.setattr(faults, "MAX_PROBLEMS", 1000)
    taken = []

    def endless():
        for i in range(1_000_000):
            taken.append(i)
            yield chat("no answer", index=i)

    with pytest.raises(DataError, match="reading stopped after 1,024 problems"):
        run(endless())
    assert len(taken) <= 1000 + BATCH


def test_a_template_that_rewrites_history_makes_an_example_for_each_turn():
    prepared = run([chat("a", "b", "c", "d"), chat("a", "b", index=1)], tiny(THINKING))
    assert [example.row.index for example in prepared.examples] == [0, 0, 1]
    assert (prepared.proof.rows, prepared.proof.turns) == (2, 3)
    last = run([chat("a", "b", "c", "d")], tiny(THINKING), TemplateConfig(train_on="last"))
    assert len(last.examples) == 1
