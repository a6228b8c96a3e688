"""A config and its rows as a Python program has them: keyword arguments, mappings, rows in memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from sapwood.base.cache import cache_dir, write_atomic
from sapwood.config.sections import RunConfig
from sapwood.data.problems import ProblemLog
from sapwood.errors import ConfigError, DataError, Problem

Rows = Iterable[Mapping[str, Any]] | Any
"""Mappings (a list, a generator, a `datasets.Dataset`), a data frame, or the name of a file."""


def config_of(config: RunConfig | Mapping[str, Any] | None, data: Rows | None, sections: Any) -> RunConfig:
    """The config that `finetune` was given, in whatever form. Raises ConfigError, and DataError for rows that
    are no JSON data."""
    if config is not None and sections:
        where = ", ".join(sections)
        raise ConfigError(
            "a config and single sections are both given",
            where,
            "sapwood can't tell which counts",
            "give one",
        )
    tree: dict[str, Any]
    tree = config.model_dump() if isinstance(config, RunConfig) else dict(config or sections)
    if data is None:
        return config if isinstance(config, RunConfig) else RunConfig.model_validate(tree)
    section = tree.get("data") or {}
    if not isinstance(section, Mapping):
        raise ConfigError("data is given twice", "data", mend="config={'data': {…}} holds options only")
    given: dict[str, Any] = {**section, "train": _files(data), "weights": ()}
    return RunConfig.model_validate({**tree, "data": given})


def _files(data: Rows) -> tuple[str, ...]:
    if isinstance(data, str | Path):
        return (str(data),)
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | Path) for item in data):
        return tuple(str(item) for item in cast("list[str | Path]", data))
    return (str(keep_rows(data)),)


def keep_rows(data: Rows) -> Path:
    """Write rows as JSONL into sapwood's cache, in a file named by their hash. The run's config can then name
    the file, and a resumed or repeated run finds the same bytes. Raises DataError naming rows that are
    none."""
    lines: list[bytes] = []
    problems = ProblemLog()
    for i, row in enumerate(_rows(data)):
        if isinstance(row, Mapping):
            try:
                line = json.dumps(_plain(dict(row)), ensure_ascii=False, allow_nan=False)
                lines.append(line.encode("utf-8", "surrogatepass") + b"\n")
            except (RecursionError, ValueError) as error:
                problems.add(Problem("a row can't be written as JSON", f"data row {i}", str(error)))
        else:
            problems.add(Problem("a row isn't a dict", f"data row {i}", f"it is a {type(row).__name__}"))
    problems.raise_any()
    if not lines:
        raise DataError("there are no rows", "data", mend="give a list of dicts")
    content = b"".join(lines)
    path = cache_dir() / "given" / f"{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return path


def _rows(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a data frame of pandas
        return data.to_dict("records")
    if hasattr(data, "to_dicts"):  # one of polars
        return data.to_dicts()
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        why = f"it is a {type(data).__name__}"
        raise DataError(
            "data must be a list of rows", "data", why, "give a list of dicts, a data frame, or a file's name"
        )
    return cast("Iterable[Any]", data)


def _plain(value: Any) -> Any:
    """JSON data of what libraries put into rows: their numbers as Python's, what is missing as null.

    Of what JSON has no words for, a date or a picture, only the kind is kept. In a column that nobody asks
    for it does no harm; in one that is learnt it is refused with its row.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if value is None or isinstance(value, bool | str | int):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if hasattr(value, "tolist"):  # an array, or a number of numpy
        return _plain(value.tolist())
    return {type(value).__name__: None}
