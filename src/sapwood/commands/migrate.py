"""``sapwood import``: a tutorial, a script or another tool's config, as a config and a report."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from sapwood.commands.data import check_config
from sapwood.errors import SapwoodError, StorageError
from sapwood.migrate.page import report_page
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.report import lines, to_facts
from sapwood.migrate.write import config_yaml, find_files, validated
from sapwood.run.files import to_json, write_atomic

OFFLINE = ["base.offline=true"]  # a report is no reason to fetch a model


def import_file(
    path: Path, out: Path, *, zh: bool, html: Path | None, force: bool, check: bool, as_json: bool
) -> None:
    template = out.with_suffix(".jinja")
    found = bring(path)
    there = find_files(found)
    validated(found.draft)
    config = config_yaml(found, zh=zh, template=str(template), out=str(out))
    _write(out, config, force=force)
    if found.draft.template is not None:
        _write(template, found.draft.template, force=force)
    if html is not None:
        write_atomic(html, report_page(found, config, zh=zh))
    checked = _checked(out, as_json=as_json) if check and there else None
    if as_json:
        print(to_json({**to_facts(found, zh=zh), "config": str(out), "check": checked}), end="")
    else:
        _tell(found, out, html, checked, zh=zh)


def _write(path: Path, text: str, *, force: bool) -> None:
    if path.exists() and not force:
        raise StorageError(
            "file exists", str(path), "it may hold your settings", "name another with --out, or add --force"
        )
    write_atomic(path, text)


def _tell(found: Migration, out: Path, html: Path | None, checked: Any, *, zh: bool) -> None:
    wrote, look = ("已写入", "请先看一遍，然后：") if zh else ("wrote", "look at it, then:")
    print("\n".join(lines(found, zh=zh)) + "\n")
    templates = [out.with_suffix(".jinja")] if found.draft.template is not None else []
    for path in (out, *templates, *([html] if html is not None else [])):
        print(f"{wrote} {path}")
    if checked is not None:
        print(f"\nsapwood check {out}\n{checked}".rstrip())
    else:
        print(f"  {look}\n    sapwood check {out}\n    sapwood train {out}")


def _checked(out: Path, *, as_json: bool) -> Any:
    """What `sapwood check` says, or why it can't."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            check_config(out, OFFLINE, as_json=as_json)
    except SapwoodError as error:
        return {"error": str(error)} if as_json else str(error)
    return json.loads(said.getvalue()) if as_json else said.getvalue()
