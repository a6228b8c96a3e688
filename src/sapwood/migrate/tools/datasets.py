"""Datasets that a config names: followed through dataset_info.json, or Axolotl's list, to their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sapwood.errors import DataError
from sapwood.migrate.convert import model_name
from sapwood.migrate.converter import Convert
from sapwood.migrate.draft import Draft
from sapwood.migrate.script.source import read_text

_ALPACA = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
}  # what a row's keys are called there
_AXOLOTL = {
    "alpaca": ("alpaca", {}), "alpaca_w_system.load": ("alpaca", {}), "chat_template": ("messages", {}),
    "sharegpt": ("sharegpt", {}), "completion": ("text", {}),
    "alpaca_chat.load_qa": ("auto", {"prompt": "question", "completion": "answer"}),
    "alpaca:chat": ("alpaca", {}), "alpaca_chat.load": ("alpaca", {}), "chat_template.default": ("messages",
    {}),
    "alpaca_w_system.load_open_orca": ("auto", {"system": "system_prompt", "prompt": "question",
    "completion": "response"}),
}  # fmt: skip

_NOT_TAKEN = (
    "split", "name", "shards", "train_on_eos", "roles", "roles_to_train", "message_field_training",
    "chat_template", "split_thinking", "revision", "train_on_eot",
)  # fmt: skip


def _factory_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    names = [n.strip() for n in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        draft.unread(
            line,
            theirs,
            value,
            "which rows isn't known: set data.train",
            "不知道是哪些数据：请设置 data.train",
        )
        return
    folder = Path(str(draft.values.get("dataset_dir") or "data"))
    known = _dataset_info(draft, folder)
    paths: list[str] = []
    for name in names:
        info = known.get(name) if known is not None else None
        if not isinstance(info, dict):
            what = "dataset_info.json isn't there" if known is None else "dataset_info.json doesn't have it"
            draft.unread(
                line,
                theirs,
                name,
                f"{what}: set data.train to its file",
                "找不到它的定义：请把 data.train 设为它的文件",
            )
            continue
        paths.append(_factory_file(info, folder))
        _factory_shape(draft, info, theirs, name, line)
    if paths:
        draft.take("data.train", paths, line, theirs, value, "by dataset_info.json", "依据 dataset_info.json")


def _dataset_info(draft: Draft, folder: Path) -> dict[str, Any] | None:
    for place in (draft.folder / folder, folder, draft.folder, draft.folder.parent / folder):
        path = place / "dataset_info.json"
        if path.is_file():
            try:
                found: Any = json.loads(read_text(path))
            except (ValueError, RecursionError, DataError):
                return None
            return found if isinstance(found, dict) else None
    return None


def _factory_file(info: dict[str, Any], folder: Path) -> str:
    if "file_name" in info:
        return str(folder / str(info["file_name"]))
    if "hf_hub_url" in info:
        return f"hf:{info['hf_hub_url']}"
    return str(info.get("ms_hub_url", info.get("script_url", "")))


def _factory_shape(draft: Draft, info: dict[str, Any], theirs: str, name: str, line: int) -> None:
    columns: dict[str, str] = info.get("columns") or {}
    tags: dict[str, str] = info.get("tags") or {}
    if info.get("formatting") in ("sharegpt", "openai"):
        form = (
            "messages"
            if tags.get("content_tag", "value") == "content" or info["formatting"] == "openai"
            else "sharegpt"
        )
        ours = {
            "messages" if form == "messages" else "conversations": columns.get("messages", "conversations")
        }
        if columns.get("system"):
            ours["system"] = columns["system"]
    else:
        form = "alpaca"
        ours = {_ALPACA[k]: v for k, v in columns.items() if k in _ALPACA and v}
        ours |= {k: columns[k] for k in ("system", "history") if columns.get(k)}
    ours = {k: v for k, v in ours.items() if k != v}
    before = draft.settings.get("data.format")
    if before not in (None, form):
        draft.unread(
            line,
            theirs,
            name,
            "its rows have another shape than those before: give it a config of its own",
            "它的行格式与前面的不同：请单独配置",
        )
        return
    draft.take("data.format", form, line, theirs, name)
    if ours:
        draft.take("data.columns", ours, line, theirs, name)
    for key in ("ranking", "subset", "num_samples", "folder"):
        if info.get(key):
            draft.unread(
                line,
                f"{name}.{key}",
                info[key],
                "not here: write these rows to a file of their own",
                "这里没有：请把这些行写成单独的文件",
            )


def _factory_eval(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    folder = Path(str(draft.values.get("dataset_dir") or "data"))
    info = (_dataset_info(draft, folder) or {}).get(str(value))
    if isinstance(info, dict):
        draft.take("data.eval", _factory_file(info, folder), line, theirs, value)
    elif value:
        draft.unread(
            line, theirs, value, "its file isn't known: set data.eval", "不知道它的文件：请设置 data.eval"
        )


# --- Axolotl ----------------------------------------------------------------------------------------------


def _axolotl_data(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    paths: list[str] = []
    for entry in value if isinstance(value, list) else []:
        if not isinstance(entry, dict):
            continue
        paths += _axolotl_paths(entry)
        _axolotl_shape(draft, entry, theirs, line)
        for key in _NOT_TAKEN:
            if entry.get(key) not in (None, "", "train"):
                matters = key not in ("roles", "revision", "chat_template")
                draft.unread(
                    line,
                    f"{theirs}.{key}",
                    entry[key],
                    "not taken over: see data and template",
                    "未采用：见 data 与 template",
                    matters=matters,
                )
    if paths:
        draft.take("data.train", paths, line, theirs, ", ".join(paths))
    else:
        draft.unread(
            line,
            theirs,
            value,
            "which rows isn't known: set data.train",
            "不知道是哪些数据：请设置 data.train",
        )


def _axolotl_paths(entry: dict[str, Any]) -> list[str]:
    path, files = str(entry.get("path", "")), entry.get("data_files")
    files = [files] if isinstance(files, str) else files
    if path in ("json", "csv", "parquet", "text") and files:
        return [str(f) for f in files]
    ours = model_name(path)
    if isinstance(files, list) and files:
        return [f"{ours}/{f}" for f in files]
    return [ours] if path else []


def _axolotl_shape(draft: Draft, entry: dict[str, Any], theirs: str, line: int) -> None:
    kind = entry.get("type")
    columns: dict[str, str] = {}
    if isinstance(kind, dict):
        form, columns = "auto", _own_type(kind)
        for key in ("format", "no_input_format", "system_format", "system_prompt"):
            if kind.get(key):
                draft.unread(
                    line,
                    f"{theirs}.type.{key}",
                    kind[key],
                    "a text of its own: write it as a .jinja template",
                    "自定义文本：请写成 .jinja 模板",
                )
    else:
        name = str(kind or "").partition(":")[0]
        known = _AXOLOTL.get(str(kind)) or _AXOLOTL.get(name)
        if known is None:
            draft.unread(
                line,
                f"{theirs}.type",
                kind,
                "no such shape here: map it with data.columns",
                "这里没有这种格式：请用 data.columns 映射",
            )
            return
        form, columns = known[0], dict(known[1])
    if form == "alpaca" or columns:
        draft.unread(
            line,
            f"{theirs}.type",
            kind,
            "there a wording of its own (### Instruction …): here the model's template renders these rows",
            "原工具用它自己的文字（### Instruction …）：这里由模型的模板渲染",
        )
    if form == "text":
        draft.take("template.train_on", "all", line, f"{theirs}.type", kind)
        if entry.get("field") not in (None, "text"):
            columns["text"] = str(entry["field"])
    if form in ("messages", "sharegpt"):
        form = _chat_columns(entry, form, columns)
    before = draft.settings.get("data.format")
    if before not in (None, form):
        draft.unread(
            line,
            f"{theirs}.type",
            kind,
            "its rows have another shape than those before: a config of its own",
            "它的行格式与前面的不同：请单独配置",
        )
        return
    draft.take("data.format", form, line, f"{theirs}.type", kind)
    if columns:
        draft.take("data.columns", columns, line, f"{theirs}.type", kind)


def _chat_columns(entry: dict[str, Any], form: str, columns: dict[str, str]) -> str:
    mapping: dict[str, str] = entry.get("message_property_mappings") or {}
    content = mapping.get(
        "content", entry.get("message_field_content", "content" if form == "messages" else "value")
    )
    messages = str(entry.get("field_messages", "messages" if form == "messages" else "conversations"))
    form = "sharegpt" if content == "value" else "messages"
    usual = "conversations" if form == "sharegpt" else "messages"
    if messages != usual:
        columns[usual] = messages
    return form


def _own_type(kind: dict[str, Any]) -> dict[str, str]:
    names = {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    }
    return {
        ours: str(kind[theirs]) for theirs, ours in names.items() if kind.get(theirs) and kind[theirs] != ours
    }


def _axolotl_eval(draft: Draft, theirs: str, value: Any, line: int, en: str, zh: str) -> None:
    paths = (
        [p for entry in value if isinstance(entry, dict) for p in _axolotl_paths(entry)]
        if isinstance(value, list)
        else []
    )
    if len(paths) == 1:
        draft.take("data.eval", paths[0], line, theirs, paths[0])
    elif value:
        draft.unread(
            line, theirs, value, "one file is held out: put them together", "留出数据只能是一个文件：请合并"
        )


CONVERT_DATA: dict[str, Convert] = {
    "factory_data": _factory_data, "factory_eval": _factory_eval, "axolotl_data": _axolotl_data,
    "axolotl_eval": _axolotl_eval,
}  # fmt: skip
