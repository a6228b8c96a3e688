"""Work that needs the tokenizer but no weights: checks, first rows, another tool's file, tables of rows."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Generator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sapwood.base.cache import cache_dir
from sapwood.config.file import dump_config, load_config, origins
from sapwood.errors import ConfigError, SapwoodError, StorageError
from sapwood.page.work.rows import RowTable
from sapwood.prepare.cache import unpack_examples
from sapwood.prepare.examples import Examples
from sapwood.run.store import CONFIG

if TYPE_CHECKING:
    from sapwood.prepare.study import Study

Work = Generator[Any, None, Any]
# the files of a run's copy of its data, by the names that `prepare.study` gives them
DATA, TRAIN, EVAL, STUDY = "data", "train.safetensors", "eval.safetensors", "study.json"
OPEN = 3  # tables that are kept
FIRST = 5  # rows that are shown of a file

_tables: dict[str, RowTable] = {}
_studies: dict[str, Study] = {}


def check(yaml: str) -> Work:
    """All that `sapwood check` knows of a config that is being written."""
    from sapwood.commands.data import checked

    yield "reading"
    with _as_file(yaml) as path:
        found = checked(load_config(path))
        facts = found.to_json(origins(path))
    key = f"config:{hash(yaml)}"
    _remember(_studies, key, found.study)
    return {**facts, "lines": found.expected.lines() + found.memory.lines(), "key": key}


def parse(yaml: str) -> Work:
    """Whether a config is valid, which takes no time."""
    with _as_file(yaml) as path:
        return {"yaml": dump_config(load_config(path))}
    yield


def first_rows(path: str) -> Work:
    """The columns, the shape and the first rows of a file."""
    from sapwood.data.files.sources import read_rows
    from sapwood.data.shapes.match import detect_format

    yield "reading"
    rows = list(islice(read_rows([path]), FIRST))
    values = [row.value for row in rows]
    columns = list(dict.fromkeys(key for value in values if isinstance(value, dict) for key in value))
    shape = detect_format(values[0]) if values else None
    return {
        "shape": shape,
        "columns": columns,
        "rows": [
            {"row": str(row.id), "value": json.dumps(row.value, ensure_ascii=False)[:2000]} for row in rows
        ],
    }


def bring(path: str, lang: str) -> Work:
    """A tutorial, a script or another tool's config, as a config of ours and a report."""
    from sapwood.migrate.read import bring as read
    from sapwood.migrate.report import lines, to_facts
    from sapwood.migrate.write import config_yaml, find_files, validated

    yield "reading"
    zh = lang == "zh"
    found = read(Path(path))
    find_files(found)
    validated(found.draft)
    template = str(Path(path).with_suffix(".jinja"))
    return {
        "yaml": config_yaml(found, zh=zh, template=template),
        "report": to_facts(found, zh=zh),
        "lines": lines(found, zh=zh),
        "template": found.draft.template,
    }


def fits() -> Work:
    """This machine, and the memory that models would take on it now."""
    from sapwood.commands.doctor import machine_facts

    yield "measuring"
    return machine_facts(Path("runs"))


def on_disk(runs: str) -> Work:
    """What the caches hold, the adapters of the runs, and how much of the disk each of them takes."""
    from sapwood.adapter.facts import ADAPTER_DIR
    from sapwood.base.held import held, taken
    from sapwood.run.query import run_folders

    yield "looking"
    found = held()
    trained = [(path.name, taken(path / ADAPTER_DIR)) for path in run_folders(Path(runs))]
    return {
        "held": [{"name": one.name, "kind": one.kind, "size": one.size} for one in found],
        "trained": [{"run": name, "size": size} for name, size in reversed(trained) if size],
        "runs": taken(Path(runs)),
        "caches": taken(cache_dir()) + sum(one.size for one in found),
    }


# --- rows -------------------------------------------------------------------------------------------------


def open_rows(run: str = "", yaml: str = "", losses: str = "") -> Work:
    """Open the rows of a run or of a config; the key of the table, and what there is of each kind."""
    yield "reading"
    key = run or f"config:{hash(yaml)}"
    table = _tables.get(key)
    if table is None:
        table = _of_run(Path(run)) if run else _of_study(_study(run, yaml))
        _remember(_tables, key, table)
    _measured(table, losses)
    threading.Thread(target=import_module, args=("sapwood.prepare.study",), daemon=True).start()
    return {"key": key, **_facts(table)}


def find_rows(
    key: str, search: str = "", issue: str = "", side: str = "", sort: str = "", down: bool = False,
    start: int = 0, count: int = 50,
) -> Work:  # fmt: skip
    """A page of the rows that are wanted."""
    yield "finding"
    table = _table(key)
    places = table.find(search=search, issue=issue, side=side, sort=sort, down=down)
    return {
        "total": len(places),
        "counts": table.counts(),
        "rows": [table.row(at) for at in places[start : start + count].tolist()],
    }


def see_row(key: str, at: int, yaml: str = "") -> Work:
    """One row, token by token."""
    from sapwood.show.mask import pieces, summary, visible

    yield "reading"
    table, renderer = _table(key), _study("" if yaml else key, yaml).renderer
    if not 0 <= at < len(table.examples):
        raise ConfigError(f"there is no row {at}", "row", f"there are {len(table.examples):,}")
    example = table.examples[at]
    shown = [
        {"ids": piece.ids, "text": visible(piece.text), "on": piece.trained, "ctl": piece.control,
         "lines": piece.text.count("\n")}
        for piece in pieces(example, renderer)
    ]  # fmt: skip
    return {"pieces": shown, "summary": summary(example, renderer), **table.row(at)}


def warm() -> Work:
    """Import what the first question would otherwise wait for."""
    for name in ("plan.choose", "plan.time"):
        import_module(f"sapwood.{name}")
    yield "importing"
    return True


# --- inside -----------------------------------------------------------------------------------------------


def _study(run: str, yaml: str) -> Study:
    from sapwood.prepare.study import load_study, study_config

    key = run or f"config:{hash(yaml)}"
    if key not in _studies:
        if run:
            folder = Path(run)
            _remember(_studies, key, load_study(folder / DATA, load_config(folder / CONFIG)))
        else:
            with _as_file(yaml) as path:
                _remember(_studies, key, study_config(load_config(path)))
    return _studies[key]


def _of_study(study: Study) -> RowTable:
    both = [Examples.of(study.data.train), Examples.of(study.data.eval)]
    texts, stop_ids = study.renderer.tokenizer.backend_tokenizer, study.renderer.stop_ids
    return RowTable(_joined(both), len(both[0]), texts, stop_ids, study.facts["report"])


def _of_run(run: Path) -> RowTable:
    """The rows of a run's own copy; without torch, if the base has its tokenizer in a file."""
    from sapwood.base.sources import resolve

    base = resolve(load_config(run / CONFIG).base.model, offline=True)
    file = base / "tokenizer.json"
    if not file.is_file():
        return _of_study(_study(str(run), ""))
    from tokenizers import Tokenizer

    facts = json.loads((run / DATA / STUDY).read_bytes())
    both = [_unpacked(run / DATA / name) for name in (TRAIN, EVAL)]
    return RowTable(
        _joined(both), len(both[0]), Tokenizer.from_file(str(file)), facts["stop_ids"], facts["report"]
    )


def _unpacked(file: Path) -> Examples:
    try:
        return Examples.of(unpack_examples(file.read_bytes(), file))
    except OSError as error:
        raise StorageError("the run's rows can't be read", str(file), str(error)) from None


def _joined(parts: list[Examples]) -> Examples:
    """Both sides as one, without making an object of each row."""
    first, second = parts
    if not len(second):
        return first
    sources = list(dict.fromkeys([*first.sources, *second.sources]))
    moved = [
        np.array([sources.index(s) for s in part.sources] or [0], np.int32)[part.source] for part in parts
    ]
    spans = [slice(part.bounds[0], part.bounds[-1]) for part in parts]
    bounds = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    rows = (
        np.concatenate(moved),
        np.concatenate([part.number for part in parts]),
        np.concatenate([part.line for part in parts]),
    )
    ids = np.concatenate([part.ids[span] for part, span in zip(parts, spans, strict=True)])
    trained = np.concatenate([part.trained[span] for part, span in zip(parts, spans, strict=True)])
    return Examples(ids, trained, bounds, rows, sources)


def _facts(table: RowTable) -> dict[str, Any]:
    report = dict(table.report)
    return {
        "rows": len(table.examples),
        "held": len(table.examples) - table.held,
        "tokens": int(table.length.sum()),
        "targets": int(table.learnt.sum()),
        "counts": table.counts(),
        "histogram": report["histogram"],
        "max_length": report["max_length"],
        "measured": int(np.count_nonzero(~np.isnan(table.loss))),
    }


def _measured(table: RowTable, losses: str) -> None:
    """Take in losses that were measured of these rows."""
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(losses, allow_pickle=False) as found:
        if len(found["loss"]) == len(table.loss):
            table.loss = found["loss"]


def _table(key: str) -> RowTable:
    try:
        return _tables[key]
    except KeyError:
        raise SapwoodError("the rows are no longer open", key, mend="load the page again") from None


def _remember(kept: dict[str, Any], key: str, value: Any) -> None:
    """Keep an open table, and forget the oldest one."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > OPEN:
        kept.pop(next(iter(kept)))


@contextlib.contextmanager
def _as_file(yaml: str) -> Generator[Path]:
    """The text as a file whose name a message may show."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sapwood.yaml"
        path.write_text(yaml, encoding="utf-8")
        try:
            yield path
        except SapwoodError as error:
            raise type(error)([_renamed(problem, folder) for problem in error.problems]) from None


def _renamed(problem: Any, folder: str) -> Any:
    from dataclasses import replace

    told = {
        name: getattr(problem, name).replace(f"{folder}/", "") for name in ("what", "where", "why", "mend")
    }
    return replace(problem, **told)


TASKS = {
    "check": check, "parse": parse, "first_rows": first_rows, "bring": bring, "fits": fits,
    "on_disk": on_disk, "open_rows": open_rows, "find_rows": find_rows, "see_row": see_row, "warm": warm,
}  # fmt: skip
