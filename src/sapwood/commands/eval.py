"""``sapwood eval``: base and adapter on the same held-out rows, with an interval for each difference."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.adapter.facts import FACTS, read_facts
from sapwood.config.file import load_config
from sapwood.config.sections import DataConfig, RunConfig, TemplateConfig
from sapwood.data.files.encoding import is_utf8
from sapwood.errors import ConfigError, DataError, row_count
from sapwood.evaluate import Compared, Evaluation, answer_both, evaluate_rows
from sapwood.machine.doing import doing
from sapwood.prepare.cache import unpack_examples
from sapwood.prepare.dataset import read
from sapwood.prepare.report import prepare
from sapwood.prepare.study import DATA, EVAL
from sapwood.run import query
from sapwood.run.files import to_json
from sapwood.run.store import CONFIG, RUN
from sapwood.serve.load import Loaded, find_target, load_found
from sapwood.serve.session import require_adapter
from sapwood.show.manner import colours
from sapwood.show.tables import side_by_side
from sapwood.types import Example, Message, Probe, RowId, Sample

NAMES = {
    "loss": ("loss", 4),
    "chrf": ("chrF", 1),
    "exact_match": ("exact match %", 1),
    "stopped": ("stopped by itself %", 1),
}


def eval_run(
    name: str,
    runs: Path,
    data: Path | None,
    *,
    base: str | None = None,
    template: str | None = None,
    answers: int,
    max_new_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure on the run's own held-out rows, or on ``data``, read and proved as the run's were. ``name`` may
    be an adapter's folder, which holds no rows."""
    folder = Path(name)
    alone = is_adapter(folder) and not (folder / RUN).is_file()
    place = folder if alone else query.find_run(runs, name)
    config = _config_of(folder, data, template) if alone else load_config(place / CONFIG)
    if config.lora.method == "full":
        why = "full fine-tuning leaves another model, and no adapter to switch off"
        raise ConfigError("nothing to compare", str(place), why, "`sapwood runs` has its held-out losses")
    with doing(f"loading {place.name}"):
        found = find_target(str(place), runs, base=base, template=template)
        loaded = load_found(found)
    examples = held_out(place) if data is None else prepare_file(data, config, loaded)
    if not examples:
        mend = f"sapwood eval {place} --data FILE"
        raise DataError("the run has no held-out rows", str(place), "data.eval was 0", mend)
    told = evaluate_rows(
        loaded, examples, answers=answers, max_new_tokens=max_new_tokens, seed=seed, held=found.held
    )
    if as_json:
        rows = str(data or place / DATA / EVAL)
        print(to_json({"run": str(place), "data": rows, **facts(told)}), end="")
    else:
        show_answers(told.answers)
        print("\n".join(lines(told)))


def answer_prompts(
    name: str,
    runs: Path,
    file: Path,
    *,
    base: str | None = None,
    template: str | None = None,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    """Both models' answers to the questions in ``file``, one a line, as `sapwood chat` would ask them."""
    questions = read_questions(file)
    with doing(f"loading {name}"):
        found = find_target(name, runs, base=base, template=template)
        loaded = load_found(found)
    require_adapter(loaded)
    probes = [_as_probe(loaded, file, i, text) for i, text in questions]
    pairs, who = answer_both(loaded, probes, max_new_tokens, found.held)
    if as_json:
        told = {"target": loaded.name, "prompts": str(file), "answered_by": who, "answers": _answers(pairs)}
        print(to_json(told), end="")
    else:
        show_answers(pairs)
        print(f"answered by {who}")


def read_questions(file: Path) -> list[tuple[int, str]]:
    """(number of the line, its text) for each line that isn't blank. Raises DataError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError("the questions can't be read", str(file), str(why).lower()) from None
    found = [(i + 1, line.strip()) for i, line in enumerate(lines) if line.strip()]
    if not found:
        raise DataError("the file holds no question", str(file), mend="write one a line")
    return found


def show_answers(pairs: Sequence[tuple[Sample, Sample]]) -> None:
    """Base and adapter next to each other, question by question."""
    width = shutil.get_terminal_size((100, 24)).columns
    print(side_by_side(pairs, width, ("base", "adapter"), color=colours(sys.stdout)))


def _as_probe(loaded: Loaded, file: Path, line: int, text: str) -> Probe:
    said = [Message("system", loaded.system)] if loaded.system else []
    ids = loaded.renderer.prompt_ids([*said, Message("user", text)])
    return Probe(RowId(str(file), line - 1, line), text, tuple(ids), "")


def _config_of(folder: Path, data: Path | None, template: str | None) -> RunConfig:
    """How rows are read for an adapter that lies alone: as its facts say, and by defaults."""
    if data is None:
        why = "an adapter's folder holds no rows"
        raise ConfigError("no rows to measure on", str(folder), why, "--data FILE, or name the run")
    rows = DataConfig(train=(str(data),))
    if not (folder / FACTS).is_file():
        return RunConfig(data=rows, template=TemplateConfig(name=template or "auto"))
    told = read_facts(folder)
    return RunConfig(
        data=rows.model_copy(update={"system": told.system}), template=TemplateConfig(name=told.template_name)
    )


def held_out(run: Path) -> Sequence[Example]:
    """The run's own copy of the rows that it held out."""
    path = run / DATA / EVAL
    return unpack_examples(path.read_bytes(), path)


def prepare_file(path: Path, config: RunConfig, loaded: Loaded) -> Sequence[Example]:
    """The rows of a file as the run would have prepared them. Raises DataError for a row that can't be
    trusted."""
    if is_utf8(path):  # data.encoding was said of the run's own files
        config = config.model_copy(update={"data": config.data.model_copy(update={"encoding": "auto"})})
    rows = read(config, loaded.renderer, [str(path)])
    size = loaded.base.spec.hf_config.get_text_config().vocab_size
    length = config.pack.length
    return list(prepare(rows, loaded.renderer, config.template, max_length=length, vocab_rows=size).examples)


def facts(found: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON data, each answer included."""
    base, adapter = found.perplexity
    return {
        "rows": found.rows,
        "targets": found.targets,
        "figures": {name: asdict(figure) for name, figure in found.figures.items()},
        "perplexity": {"base": base, "adapter": adapter},
        "answered_by": found.answered_by,
        "answers": _answers(found.answers),
    }


def _answers(pairs: Sequence[tuple[Sample, Sample]]) -> list[dict[str, Any]]:
    return [
        {
            "row": str(tuned.row),
            "prompt": tuned.prompt,
            "reference": tuned.reference,
            "base": {"answer": before.answer, "stopped": before.stopped},
            "adapter": {"answer": tuned.answer, "stopped": tuned.stopped},
        }
        for before, tuned in pairs
    ]


def lines(found: Evaluation) -> list[str]:
    """A table for a person, and in plain words whether the difference is more than chance."""
    out = [f"{'':<20}{'base':>10}{'adapter':>10}{'difference':>12}   95 % interval"]
    for name, figure in found.figures.items():
        label, digits = NAMES[name]
        gap = figure.difference
        out.append(
            f"{label:<20}{figure.base:>10.{digits}f}{figure.adapter:>10.{digits}f}{gap.value:>+12.{digits}f}"
            f"   {gap.low:+.{digits}f} … {gap.high:+.{digits}f}"
        )
        if name == "loss":
            base, adapter = found.perplexity
            out.append(f"{'perplexity':<20}{base:>10.2f}{adapter:>10.2f}")
    told = len(found.answers)
    answers = f"{told:,} answer{'' if told == 1 else 's'}"
    out.append(f"{row_count(found.rows)}, {found.targets:,} targets, {answers}{_by(found)}")
    out.append(verdict(found.figures["loss"]))
    return out


def _by(found: Evaluation) -> str:
    return f" by {found.answered_by}" if found.answers else ""


def verdict(loss: Compared) -> str:
    """Whether the interval of the loss holds zero."""
    if loss.difference.high < 0:
        return "the adapter is better than its base on these rows"
    if loss.difference.low > 0:
        return "the adapter is worse than its base on these rows"
    return "no difference that these rows can show"
