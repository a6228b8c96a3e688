"""What the site shows besides the files of docs/: pages made from the code, links that leave the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
CODE = "https://github.com/sapwood-ai/sapwood/blob/main/"
LINK = re.compile(r"\]\((?:\.\./)+([^)]+)\)")
SWITCH = re.compile(r"^\[(?:中文|English)\]\(.*\)$\n", re.MULTILINE)
OF_THE_ROOT = {"ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}


@event_priority(-100)  # behind the plugin of languages, which knows files on disk only
def on_files(files: Any, config: Any) -> Any:
    pages = {"cli.md": commands(), "config.md": settings(), "api.md": names()}
    for name, page in OF_THE_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        pages[page] = re.sub(r"\]\((?!http|#|\.\./)([^)]+)\)", r"](../../\1)", text)
    for name, text in pages.items():
        file = File.generated(config, f"reference/{name}", content=text)
        if config.theme["language"] != "en":  # the same pages among the others of that language
            file.dest_uri = f"zh-CN/{file.dest_uri}"
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link out of docs/ leads to the file in the repository. The site has a switch of languages of its own,
    and one name for both pages."""
    markdown = SWITCH.sub("", markdown, count=1).replace(".zh-CN.md", ".md")
    return LINK.sub(lambda found: f"]({inside(found[1], page.file.src_uri)})", markdown)


def inside(target: str, page: str) -> str:
    """Where a file of the repository is to be found, from a page of the site."""
    up = "../" * page.count("/")
    if target in OF_THE_ROOT:
        return f"{up}reference/{OF_THE_ROOT[target]}"
    path = target.removeprefix("docs/")
    return f"{up}{path}" if (ROOT / "docs" / path.partition("#")[0]).is_file() else CODE + target


def commands() -> str:
    """Each verb with its help and options."""
    import typer
    from typer.main import get_command

    from sapwood.cli import app

    out = ["# Commands", "", "`sapwood VERB --help` says the same."]
    root = get_command(app)

    def tell(command: Any, path: list[str]) -> None:
        if command.hidden:
            return
        context = typer.Context(command, info_name=path[-1])
        if children := getattr(command, "commands", None):
            for name, child in sorted(children.items()):
                tell(child, [*path, name])
            return
        usage = " ".join([*path, *command.collect_usage_pieces(context)])
        out.extend(["", f"## {' '.join(path)}", "", plain(command.help or ""), "", f"```\n{usage}\n```", ""])
        rows = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            out.extend(["| option | what it does |", "|---|---|"])
            out.extend(f"| {option(row)} | {plain(row.help or '', line=True)} |" for row in rows)

    tell(root, ["sapwood"])
    return "\n".join(out) + "\n"


def option(parameter: Any) -> str:
    argument = not parameter.opts[0].startswith("-")
    names = (
        [(parameter.metavar or parameter.name).upper()]
        if argument
        else [*parameter.opts, *parameter.secondary_opts]
    )
    return " ".join(f"`{name}`" for name in names)


def plain(text: str, line: bool = False) -> str:
    """Help as Markdown, without the marks of a terminal's colours; in a table, on one line."""
    text = re.sub(r"\[/?(?:bold|dim|cyan|green|yellow|red|italic)[^\]]*\]", "", text.replace("\b", ""))
    return " ".join(text.split()).replace("|", "\\|") if line else text.strip()


def settings() -> str:
    """Each key of the config, with its default and its sentence."""
    from sapwood.config.sections import RunConfig

    out = ["# Settings", "", "Keys of a configuration file, and of `key=value` on the command line."]
    for section, field in RunConfig.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        if not keys:
            continue
        out.extend(["", f"## {section}", "", "| key | default | what it does |", "|---|---|---|"])
        for key, about in keys.items():
            default = about.get_default(call_default_factory=True)
            told = plain(about.description or "", line=True)
            out.append(f"| `{section}.{key}` | `{shown(default)}` | {told} |")
    return "\n".join(out) + "\n"


def shown(value: Any) -> str:
    import json

    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False, default=str).replace("|", "\\|")


def names() -> str:
    """All that is public."""
    import sapwood

    public = [name for name in sapwood.__all__ if not name.startswith("__")]
    return "\n".join(["# Python API", *(f"\n::: sapwood.{name}" for name in sorted(public))]) + "\n"
