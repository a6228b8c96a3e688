"""How help reads: verbs by what they are for, an example for each, nothing cut. Loads nothing but typer."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from typer import Typer
from typer.core import TyperCommand, TyperGroup

from sapwood.commands.line.named import refuse_unknown

FIRST = ("demo", "init", "check", "train", "chat")  # what `sapwood` alone shows
GROUPS = {
    "Train": ("demo", "init", "import", "check", "show", "train", "resume"),
    "See and measure": ("ui", "runs", "verify", "eval", "chat", "track"),
    "Give away": ("serve", "export", "combine", "adopt", "push", "report"),
    "Models, data, machine": ("model", "data", "doctor", "help"),
}
EXAMPLES = {
    "": (
        "sapwood demo",
        "sapwood init --data rows.csv && sapwood train",
        "sapwood chat last",
    ),
    "demo": ("sapwood demo", "sapwood demo --steps 20"),
    "init": ("sapwood init --data rows.csv", "sapwood init --data rows.csv mine.yaml --all"),
    "import": ("sapwood import train.py", "sapwood import axolotl.yaml --out mine.yaml --html report.html"),
    "check": ("sapwood check", "sapwood check rows.csv", "sapwood check mine.yaml pack.length=512 --json"),
    "show": ("sapwood show sapwood.yaml --row 0", "sapwood show sapwood.yaml --worst --html page.html"),
    "train": (
        "sapwood train",
        "sapwood train rows.csv",
        "sapwood train mine.yaml train.lr=2e-4 lora.rank=16",
    ),
    "resume": ("sapwood resume", "sapwood resume my-run --allow save.every"),
    "verify": ("sapwood verify last", "sapwood verify my-run --repair"),
    "runs": ("sapwood runs --sort loss", "sapwood runs first second --plot both.png"),
    "eval": ("sapwood eval last", "sapwood eval last --prompts questions.txt"),
    "track": ("sapwood track last --to tensorboard",),
    "chat": ("sapwood chat last", 'sapwood chat last -p "How do I prune a pear?" --compare'),
    "ui": ("sapwood ui", "sapwood ui --read-only --port 8800"),
    "report": ("sapwood report last", "sapwood report last --lang zh"),
    "serve": ("sapwood serve last", "sapwood serve mine=my-run other=path/to/adapter --port 9000"),
    "combine": ("sapwood combine first second --out both --weights 0.7,0.3",),
    "adopt": ("sapwood adopt folder --data rows.jsonl", "sapwood adopt a.gguf --base M --out mine"),
    "export": ("sapwood export last --to ollama", "sapwood export last --to gguf --type Q8_0"),
    "push": ("sapwood push last ORG/NAME --dry-run",),
    "doctor": ("sapwood doctor",),
    "help": ("sapwood help train", "sapwood help lora.rank"),
    "model": ("sapwood model pull builtin:smollm2",),
    "model pull": ("sapwood model pull hf:Qwen/Qwen1.5-0.5B-Chat",),
    "model list": ("sapwood model list",),
    "model info": ("sapwood model info builtin:smollm2",),
    "data": ("sapwood data convert frame.pkl rows.jsonl",),
    "data convert": ("sapwood data convert frame.pkl rows.jsonl",),
}
Record = tuple[str, str]


class Verb(TyperCommand):
    """A verb whose help ends in examples, and that tells of an unknown run before it imports much."""

    def invoke(self, ctx: Any) -> Any:
        refuse_unknown(self, ctx.params)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx, {}))


class Verbs(TyperGroup):
    """Verbs under the names of `GROUPS`; one that stands nowhere there comes last."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx, _grouped(self)))


group = partial(Typer, cls=Verbs, rich_markup_mode=None, pretty_exceptions_enable=False)


def first_steps(group: Any) -> str:
    """What `sapwood` alone says: the five verbs of a first hour."""
    lines = ["sapwood fine-tunes a chat model on your examples. The first five of its verbs:", ""]
    lines += _table([(name, _sentence(group.commands[name])) for name in FIRST])
    return "\n".join(
        [*lines, "", "`sapwood --help` lists all of them, `sapwood help VERB` explains one.", ""]
    )


def _page(command: Any, ctx: Any, groups: dict[str, list[Record]]) -> str:
    path = _path(ctx)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]
    usage = ["sapwood", path, *map(_usage, arguments), "VERB …" if groups else "", "[OPTIONS]"]
    out = [f"usage: {' '.join(part for part in usage if part)}", "", *_wrapped(_help(command))]
    for title, records in groups.items():
        out += ["", f"{title}:", *_table(records)]
    if arguments:
        out += ["", "Arguments:", *_table([(_name(p), said(p)) for p in arguments])]
    out += ["", "Options:", *_table([(_flags(p), said(p)) for p in options])]
    out += ["", "Examples:", *(f"  {line}" for line in EXAMPLES.get(path, ()))] if path in EXAMPLES else []
    return "\n".join(out) + "\n"


def _grouped(group: Any) -> dict[str, list[Record]]:
    seen: dict[str, list[Record]] = {}
    known = {name: title for title, names in GROUPS.items() for name in names}
    is_root = "train" in group.commands
    order = [*known, *group.commands] if is_root else [*group.commands]
    for name in dict.fromkeys(order):
        command = group.commands.get(name)
        if command is not None and not command.hidden:
            title = known.get(name, "Other") if is_root else "Verbs"
            seen.setdefault(title, []).append((name, _sentence(command)))
    return seen


def _path(ctx: Any) -> str:
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(names)


def _help(command: Any) -> str:
    return " ".join(str(command.help or "").split())


def _sentence(command: Any) -> str:
    return _help(command).partition(". ")[0].rstrip(".")


def _name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper()).strip("[]")


def _usage(parameter: Any) -> str:
    return _name(parameter) if parameter.required else f"[{_name(parameter)}]"


def _flags(parameter: Any) -> str:
    flags = ", ".join(sorted(parameter.opts, key=len))
    takes = not getattr(parameter, "is_flag", False)
    return f"{flags} {parameter.metavar or parameter.name.upper()}" if takes else flags


def said(parameter: Any) -> str:
    text = str(parameter.help or "")
    default = parameter.default
    if default is None or isinstance(default, bool) or callable(default) or "default: " in text:
        return text
    return f"{text} (default: {default})" if text else f"default: {default}"


def _table(records: Sequence[Record]) -> list[str]:
    width = max((len(name) for name, _ in records), default=0)
    room = max(30, _columns() - width - 4)
    out: list[str] = []
    for name, text in records:
        first, *rest = textwrap.wrap(text, room) or [""]
        out.append(f"  {name:<{width}}  {first}".rstrip())
        out += [f"  {'':<{width}}  {line}" for line in rest]
    return out


def _wrapped(text: str) -> Iterable[str]:
    return textwrap.wrap(text, _columns())


def _columns() -> int:
    return min(100, max(60, shutil.get_terminal_size((100, 24)).columns))
