"""Where the rows of a script come from, what is held out, and how they become text."""

from __future__ import annotations

import re
from typing import Any

from sapwood.migrate.calls.facts import BUILDERS, Facts, first, line_of, upstream
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.outside import SLICE
from sapwood.migrate.script.values import Call, is_plain

_LINK = re.compile(r"\(([^()\s]+\.(?:jsonl?|csv|tsv|parquet))\)|`([^`\s]+\.(?:jsonl?|csv|tsv|parquet))`")
_HUB = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?P<at>@[^/]+)?/(?P<file>.+)")
_PART = re.compile(r"^(\w+)(\[.*\])?$")


# --- files ------------------------------------------------------------------------------------------------


def read_source_of_rows(draft: Draft, facts: Facts) -> None:
    call = facts.data
    if call is None:
        _named_in_prose(draft, facts)
        return
    if call.last == "load_dataset":
        _loaded(draft, call)
    else:
        path = first(
            call, "path_or_buf", "filepath_or_buffer", "path", "file", "io", "dataset_path", "path_or_paths"
        )
        _file(draft, call, path, call.last)
    for step in facts.chain:
        if step.last == "from_list" and isinstance(first(step), list):
            said = "the script makes these rows itself", "这些样本由脚本自己生成"
            draft.resists.append((step.line, step.last, *said))
        if step.last in ("select", "filter", "shard", "head", "sample", "take", SLICE):
            draft.unread(
                step.line,
                step.last,
                [a for a in step.args if is_plain(a)],
                "a part of the rows: write that part to a file of its own",
                "只用部分数据：请把这部分写成单独的文件",
            )
        elif step.last in ("map", "remove_columns", "rename_column", "shuffle", "from_pandas", "from_list"):
            draft.instead(
                step.line,
                step.last,
                "",
                "not needed: rows become examples in one step",
                "不需要：样本一步准备好",
            )
            for name in ("remove_columns",):
                if name in step.kwargs:
                    draft.instead(step.lines[name], name, step.kwargs[name], "not needed", "不需要")


def _loaded(draft: Draft, call: Call) -> None:
    name = first(call, "path")
    files = call.kwargs.get("data_files")
    line = call.lines.get("data_files", call.line)
    if isinstance(files, dict):
        held = next((files[k] for k in ("validation", "test", "eval", "valid", "dev") if k in files), None)
        files = files.get("train")
        if isinstance(held, str) and (path := ours(held)) is not None:
            draft.take("data.eval", path, line, "data_files", held)
        elif held is not None:
            said = "which file isn't known here: set data.eval", "不知道是哪个文件：请设置 data.eval"
            draft.unread(line, "data_files", held, *said)
    if isinstance(name, str) and name in BUILDERS:
        _file(draft, call, files, "data_files")
        _kind(draft, call, name)
    elif isinstance(name, str) and files is None:
        hub = (
            "/" in name
            and not name.startswith((".", "/", "~"))
            and name.count("/") == 1
            and "." not in name.partition("/")[2][-6:]
        )
        where = f"hf:{name}" if hub else name
        draft.take("data.train", [where], line_of(call, "path"), "load_dataset", name)
        config = call.kwargs.get("name", call.args[1] if len(call.args) > 1 else None)
        if config is not None:
            draft.unread(
                call.line,
                "name",
                config,
                "a part of the dataset: name its file, hf:ORG/NAME/FILE",
                "数据集的一部分：请写明文件 hf:ORG/NAME/FILE",
            )
    elif isinstance(name, str) and isinstance(files, (str, list)):
        paths = [files] if isinstance(files, str) else [f for f in files if isinstance(f, str)]
        draft.take(
            "data.train", [f"hf:{name}/{path}" for path in paths], line, "load_dataset", f"{name}, {paths}"
        )
    else:
        draft.unread(
            call.line,
            "load_dataset",
            name,
            "which rows isn't known: set data.train",
            "不知道是哪些数据：请设置 data.train",
        )
    _split(draft, call)


def _split(draft: Draft, call: Call) -> None:
    split = call.kwargs.get("split")
    if split is None:
        return
    line = call.lines.get("split", call.line)
    match = _PART.match(split) if isinstance(split, str) else None
    if match is None or match[2]:
        draft.unread(
            line,
            "split",
            split,
            "a part of the rows: write that part to a file of its own",
            "只用部分数据：请把这部分写成单独的文件",
        )
    else:
        draft.note(
            "data.eval", line, "split", split, "rows are held out by data.eval", "留出数据由 data.eval 决定"
        )


def _kind(draft: Draft, call: Call, name: str) -> None:
    if name == "pandas":
        draft.instead(
            call.line,
            "load_dataset",
            name,
            "`sapwood data convert` first: a pickle can run code",
            "先 `sapwood data convert`：pickle 能执行代码",
        )
    else:
        draft.note(
            "data.train", call.line, "load_dataset", name, "the kind is told by the content", "格式由内容判断"
        )


def ours(path: str) -> str | None:
    """A file as data.train has it; None for a revision that it can't name."""
    match = _HUB.fullmatch(path)
    if match is None:
        return path
    at = match["at"] or ""
    return None if at == "@refs" else f"hf:{match['name']}{at}/{match['file']}"


def _file(draft: Draft, call: Call, path: Any, theirs: str) -> None:
    line = line_of(call, "data_files")
    given: Any = [path] if isinstance(path, str) else path
    plain = isinstance(given, (list, tuple)) and given and all(isinstance(p, str) for p in given)
    paths = [ours(p) for p in given] if plain else []
    if paths and None not in paths:
        draft.take("data.train", paths, line, theirs, path)
    else:
        draft.unread(
            line,
            theirs,
            path,
            "which file isn't known before it runs: set data.train",
            "运行之前不知道是哪个文件：请设置 data.train",
        )


def _named_in_prose(draft: Draft, facts: Facts) -> None:
    for line in facts.source.prose:
        match = _LINK.search(facts.source.text(line))
        if match:
            path = match[1] or match[2]
            en, zh = (
                "no line of the code reads it: the text names this file",
                "代码里没有读取：正文提到这个文件",
            )
            draft.take("data.train", [path], line, "text", path, en, zh)
            return
    if facts.trainer is not None:
        draft.unread(
            facts.trainer.lines.get("train_dataset", facts.trainer.line),
            "train_dataset",
            facts.trainer.kwargs.get("train_dataset", ""),
            "nothing says which rows: set data.train",
            "没有说明是哪些数据：请设置 data.train",
        )


def read_held_out(draft: Draft, facts: Facts) -> None:
    given = facts.argument("eval_dataset")
    split = next((c for c in facts.script.calls if c.last == "train_test_split"), None)
    if split is not None and split in list(upstream(facts.argument("train_dataset"))) + list(upstream(given)):
        size = split.kwargs.get("test_size", first(split))
        if isinstance(size, (int, float)) and size != 1:
            draft.take(
                "data.eval",
                size,
                split.lines.get("test_size", split.line),
                "test_size",
                size,
                "equal prompts stay on one side",
                "相同的提示词只在一侧",
            )
        else:
            draft.unread(
                split.line,
                "test_size",
                size,
                "how much isn't known: set data.eval",
                "不知道比例：请设置 data.eval",
            )
    elif given is None or given == "":
        draft.default("data.eval", 0, "eval_dataset", "the original holds nothing out", "原脚本没有留出数据")
    else:
        source = next(
            (c for c in upstream(given) if c.last in ("load_dataset", "read_json", "read_csv")), None
        )
        files = source.kwargs.get("data_files") if source else None
        if isinstance(files, str) and source is not facts.data:
            draft.take("data.eval", files, source.line if source else 0, "eval_dataset", files)
        elif "data.eval" not in draft.settings:
            draft.unread(
                facts.line("eval_dataset"),
                "eval_dataset",
                "",
                "its rows aren't known here: set data.eval",
                "不知道是哪些数据：请设置 data.eval",
            )
