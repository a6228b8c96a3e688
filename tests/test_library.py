"""docs/library.md: its twelve tasks run, in both languages, and do what they say."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sapwood
from sapwood import errors
from sapwood.config.sections import DataConfig
from sapwood.data.formats import read_conversations
from sapwood.errors import ConfigError, DataError
from sapwood.page.drawn import report
from sapwood.prepare.given import config_of, keep_rows
from sapwood.serve.load import open_target
from sapwood.types import Message
from tests.base.tiny import tiny_llama

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("library.md", "library.zh-CN.md")


def tasks(page: str) -> list[str]:
    """The code of each task, on the smallest model there is."""
    text = (DOCS / page).read_text(encoding="utf-8")
    parts = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    code = ["\n".join(re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE)) for part in parts]
    return [block.replace("builtin:smollm2", "tiny-llama") for block in code]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("library")
    tiny_llama(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SAPWOOD_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def done(home: Path) -> dict[str, Any]:
    """The names that the page's tasks leave, after all of them ran in order."""
    names: dict[str, Any] = {}
    for number, code in enumerate(tasks(PAGES[0]), 1):
        exec(compile(code, f"task {number}", "exec"), names)
    return names


def test_there_are_twelve_tasks_and_they_are_alike_in_both_languages() -> None:
    assert len(tasks(PAGES[0])) == 12
    assert tasks(PAGES[0]) == tasks(PAGES[1])


def test_rows_in_memory_are_trained_on(done: dict[str, Any]) -> None:
    assert done["adapter"].path.is_dir() and math.isfinite(done["adapter"].final_loss)
    assert (done["adapter"].path.parent / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert done["woods"].path.is_dir()


def test_the_faults_of_a_config_are_told_with_our_keys(done: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        sapwood.RunConfig(data={"train": "x"}, train={"learning_rate": 1e-4}, lora={"r": 8})  # type: ignore[arg-type]
    assert {p.mend for p in caught.value.problems} == {"here it is lora.rank", "here it is train.lr"}


def test_log_p_is_that_of_the_logits(done: dict[str, Any]) -> None:
    model: sapwood.Model = done["model"]
    renderer = open_target("watering", Path("runs")).renderer
    question, answer = done["question"], done["answer"]
    asked = [Message("user", question)]
    ids = renderer.prompt_ids(asked)
    said = renderer.encoder.encode(renderer.text_of([*asked, Message("assistant", answer)])).ids.tolist()
    assert said[: len(ids)] == ids
    stop = said.index(renderer.stop_id, len(ids))
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([said])).logits[0].float().log_softmax(-1)
    expected = sum(float(logits[i - 1, said[i]]) for i in range(len(ids), stop + 1))
    assert model.log_prob(question, answer) == pytest.approx(expected, abs=1e-3)
    about_nine = renderer.prompt_ids([Message("user", "How often do I water tree 9?")])
    assert done["logits"].shape[0] == len(about_nine)


def test_the_base_answers_alone_while_it_is_asked_to(done: dict[str, Any]) -> None:
    base = sapwood.load("tiny-llama").log_prob(done["question"], done["answer"])
    assert done["base"] == pytest.approx(base, abs=0.05)  # held in bf16, perhaps
    assert abs(done["tuned"] - base) > 0.1


def test_a_watcher_sees_every_step_and_can_stop_the_run(done: dict[str, Any]) -> None:
    assert len(done["losses"]) == 2
    run = sapwood.Run("halved")
    assert run.summary.status == "finished"
    events = run.events()
    assert list(events[events.kind == "stepped"].step) == [1, 2]
    assert (run.path / "adapter").is_dir()


def test_a_stopped_run_says_so_until_it_is_resumed(home: Path, done: dict[str, Any]) -> None:
    settings = {**done["settings"], "name": "stopped-one"}
    with pytest.raises(sapwood.Stopped, match="stopped after step 1, saved"):
        sapwood.finetune(
            settings, lambda event: sapwood.Stop() if event.step == 1 else None, data=done["frame"]
        )
    assert sapwood.Run("stopped-one").summary.status == "stopped"


def test_an_evaluator_s_numbers_are_in_events_and_choose_the_best(done: dict[str, Any]) -> None:
    assert set(done["scores"].columns) == {"step", "loss", "says_twice"}
    assert done["scores"]["says_twice"].between(0, 1).all()
    assert len(done["curve"]) == 2


@pytest.mark.parametrize(
    ("evaluator", "best", "message"),
    [
        (lambda model: 3, "loss", "must return a dict"),
        (lambda model: {"a": math.nan}, "loss", "must return numbers"),
        (lambda model: {"a": "x"}, "loss", "must return numbers"),
        (lambda model: {"a": 1.0}, "b", "no score is called 'b' .*loss, a"),
    ],
)
def test_an_evaluator_that_is_wrong_is_told_before_the_first_step(
    evaluator: Any, best: str, message: str, done: dict[str, Any]
) -> None:
    settings = {**done["settings"], "eval": {"best": best, "samples": 0}, "name": "wrong"}
    with pytest.raises(ConfigError, match=message):
        sapwood.finetune(settings, data=done["frame"], evaluators=[evaluator])


def test_rows_of_every_kind_give_the_same_file(home: Path) -> None:
    import numpy
    import pandas

    rows = [{"prompt": "a", "completion": "b", "n": 1}, {"prompt": "c", "completion": "d", "n": None}]
    frame = pandas.DataFrame([{"prompt": "a", "completion": "b", "n": 1}, {"prompt": "c", "completion": "d"}])
    frame["n"] = pandas.array([1, None], dtype="Int64")
    kept = keep_rows(rows)
    assert keep_rows(row for row in rows) == kept == keep_rows(frame)
    assert keep_rows([{**rows[0], "n": numpy.int64(1)}, rows[1]]) == kept
    datasets = pytest.importorskip("datasets")
    assert keep_rows(datasets.Dataset.from_list(rows)) == kept
    assert [json.loads(line) for line in kept.read_text().splitlines()] == rows


def test_a_date_is_left_where_nobody_asks_for_it_and_refused_as_an_answer(home: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"prompt": ["a", "c"], "completion": ["b", "d"]})
    frame["at"] = pandas.Timestamp("2026-01-02")
    data = DataConfig(train=(str(keep_rows(frame)),))
    assert [row.messages[-1].text for row in read_conversations(data)] == ["b", "d"]
    frame["completion"] = frame["at"]
    data = DataConfig(train=(str(keep_rows(frame)),))
    with pytest.raises(DataError, match=r"'completion' is an object, not text .* with 'Timestamp'"):
        [*read_conversations(data)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there are no rows"),
        ({"prompt": "a"}, "data must be a list of rows"),
        (5, "data must be a list of rows"),
        ([{"a": 1}, "b"], "a row isn't a dict · data row 1"),
        ([{"a": math.inf}], "a row can't be written as JSON · data row 0 · Out of range float"),
        ([5] * 30, r"a row isn't a dict \(30 times\) · data row 0, data row 1, data row 2 and 27 more"),
    ],
)
def test_data_that_are_no_rows_are_refused(data: Any, message: str, home: Path) -> None:
    with pytest.raises(DataError, match=message):
        keep_rows(data)


def test_a_config_is_given_once(home: Path) -> None:
    with pytest.raises(ConfigError, match="a config and single sections are both given"):
        config_of({"data": {"train": "x"}}, None, {"train": {"lr": 1e-4}})
    with pytest.raises(ConfigError, match="data is missing"):
        config_of(None, None, {"train": {"lr": 1e-4}})
    assert config_of(None, "rows.jsonl", {}).data.train == ("rows.jsonl",)
    assert config_of(None, ["a.csv", "b.csv"], {}).data.train == ("a.csv", "b.csv")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.chat("hi", max_tokens=3), "no setting is called max_tokens"),
        (lambda model: model.chat([{"role": "bot", "content": "x"}]), "turn 0 isn't a message"),
        (lambda model: model.chat([{"role": "user"}]), "turn 0 isn't a message"),
        (lambda model: model.chat("hi", top_p=2), "top_p is not valid"),
    ],
)
def test_a_wrong_question_is_one_clear_error(ask: Any, message: str, done: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(done["model"])


def test_what_is_public_can_be_imported_and_is_lazy() -> None:
    for name in sapwood.__all__:
        assert getattr(sapwood, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sapwood.nothing  # type: ignore[attr-defined]


NUMBER = re.compile(r"\b(?:int|float)\b")
UNIT = re.compile(r"\b(?:nats?|seconds|bytes|tokens|number of|0 to 100|0 is|factor|epochs|leaves with)\b")
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Examples):\n((?:(?: .*)?\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def public() -> dict[str, Any]:
    """Everything that a caller may name: the names of `sapwood`, and what their classes offer."""
    found = {name: getattr(sapwood, name) for name in sapwood.__all__ if name != "__version__"}
    found["show"] = report.show  # `sapwood.show` is the folder, which calls it
    for name, value in [*found.items()]:
        for part, inner in [*vars(value).items()] if inspect.isclass(value) else ():
            ours = isinstance(inner, property) or inspect.isfunction(inner)
            if ours and not part.startswith("_") and f"{name}.{part}" not in INNER:
                found[f"{name}.{part}"] = inner
    return found


INNER = ("Model.of", "RunConfig.keeps_best")  # for sapwood itself, and their types aren't public
HIDDEN = ("self", "args", "kwargs")


def sections_of(value: Any) -> dict[str, str]:
    return dict(SECTION.findall((inspect.getdoc(value) or "") + "\n"))


def entries(value: Any, *titles: str) -> dict[str, str]:
    told = sections_of(value)
    return {name: text for title in titles for name, text in ENTRY.findall(told.get(title, ""))}


@pytest.mark.parametrize("name", public())
def test_every_public_name_is_described_in_full(name: str) -> None:
    """Each argument and each field by name, each number with its unit, each tensor with its shape, what a
    call may raise, and an example."""
    value = public()[name]
    doc = inspect.getdoc(value) or ""
    assert len(doc) > 30
    if isinstance(value, property):
        return
    assert ">>> " in sections_of(value).get("Examples", ""), "no example"
    if inspect.isclass(value) and not issubclass(value, Exception) and dataclasses.is_dataclass(value):
        fields, told = (
            {one.name: str(one.type) for one in dataclasses.fields(value)},
            entries(value, "Attributes"),
        )
    elif isinstance(value, type) and issubclass(value, sapwood.RunConfig):
        fields, told = dict.fromkeys(value.model_fields, ""), value.model_fields  # docs/hooks.py tells them
        assert all(field.description for field in value.model_fields.values())
    elif inspect.isclass(value) and "__init__" not in vars(value):
        return
    elif name == "Model":  # `load` makes one
        fields, told = dict.fromkeys(("network", "tokenizer", "system"), ""), entries(value, "Attributes")
    else:
        asked = inspect.signature(value).parameters.values()
        fields = {one.name: str(one.annotation) for one in asked if one.name not in HIDDEN}
        told = entries(value, "Args")
        raised = re.findall(r"^ {4}(\w+): ", sections_of(value).get("Raises", ""), re.MULTILINE)
        assert raised or "raises nothing" in doc or issubclass_of_error(value), "errors aren't told"
        assert all(issubclass(getattr(errors, error), sapwood.SapwoodError) for error in raised)
        if "Tensor" in str(inspect.signature(value).return_annotation):
            assert re.search(r"float32\[[\w, ]+\]", doc), "a tensor has no shape"
    assert list(told) == list(fields)
    for field, kind in fields.items():
        if NUMBER.search(kind):
            assert UNIT.search(told[field]), f"{field}: {told[field]!r} has no unit"


def issubclass_of_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, sapwood.SapwoodError)


@pytest.mark.parametrize("name", public())
def test_the_example_of_every_public_name_runs(
    name: str, home: Path, done: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints what it says, if it says anything."""
    (home / "rows.jsonl").touch()
    for run in sapwood.runs().itertuples():
        if run.status != "finished":  # of other tests: `last` is one that ended well
            shutil.rmtree(run.path)
    doc = (inspect.getdoc(public()[name]) or "").replace("builtin:smollm2", "tiny-llama")
    names, check = dict(done), doctest.OutputChecker()
    for example in doctest.DocTestParser().get_examples(doc):
        exec(compile(example.source, name, "single"), names)
        said = capsys.readouterr().out
        assert not example.want or check.check_output(example.want, said, 0), (example.source, said)


def test_every_public_name_is_shown_on_the_page() -> None:
    shown = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    for name in sapwood.__all__:
        assert re.search(rf"\b{name}\b", shown), f"{name}: docs/library.md doesn't show it"
