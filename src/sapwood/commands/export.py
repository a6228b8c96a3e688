"""``sapwood export``."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from sapwood.adapter.elsewhere.kind import is_adapter, told_base
from sapwood.adapter.facts import FACTS, read_facts
from sapwood.base.inspect import inspect_base
from sapwood.base.sources import named_on_hub, resolve
from sapwood.config.file import load_config
from sapwood.config.sections import BaseConfig
from sapwood.errors import ConfigError, SapwoodError
from sapwood.export.quantise import FileType
from sapwood.export.ship import Order, export, refuse_early
from sapwood.prepare.cache import unpack_examples
from sapwood.prepare.study import DATA, EVAL
from sapwood.run.files import to_json
from sapwood.run.query import find_run
from sapwood.run.store import CONFIG, RUN
from sapwood.serve.load import Loaded, open_target
from sapwood.types import Example, Kind

HELD = 64  # held-out examples, the first ones, on which ways to merge and types of GGUF are compared


def export_target(
    target: str,
    runs: Path,
    *,
    to: str,
    file_type: str,
    base: str | None,
    template: str | None,
    onto: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write what ``target`` names as ``to``, say how near the export is, and what to type next."""
    for value, choices, where, more in (
        (to, get_args(Kind), "--to", ""),
        (file_type, get_args(FileType), "--type", "; llama-quantize makes others of the F16 file"),
    ):
        if value not in choices:
            mend = f"choose {', '.join(choices)}{more}"
            raise ConfigError(f"{value!r} can't be exported to", where, mend=mend)
    if (config := _base_of(target, runs, base)) is not None:
        refuse_early(inspect_base(config), cast("Kind", to))
    trained = open_target(target, runs, exact=True, base=base, template=template)
    run = run_of(trained)
    held = _held_out(run) if run is not None and to != "gguf-adapter" else ()
    order = Order(cast("Kind", to), cast("FileType", file_type), onto, held)
    done = export(trained, order, out or _default_folder(trained, run, to))
    if as_json:
        print(to_json(done.to_json()), end="")
        return
    for note in done.notes:
        print(f"{'merge' if to == 'merged' else 'type':<11}{note}")
    print(f"check      {done.check.line()}")
    print(f"written    {done.path}")
    print(f"use        {done.use}")


def _base_of(target: str, runs: Path, base: str | None) -> BaseConfig | None:
    """``base``, or the base of a run or an adapter, from its own files. None if they don't name it, or if the
    base isn't there any more: `open_target` then tells the fault."""
    if base is not None:
        return BaseConfig(model=base)
    folder = Path(target)
    try:
        if (folder / FACTS).is_file():
            model = read_facts(folder).base.model
        elif is_adapter(folder):
            model = named_on_hub(told_base(folder) or "")
        else:
            run = folder if (folder / RUN).is_file() else find_run(runs, target)
            model = load_config(run / CONFIG).base.model
        resolve(model, offline=True)
    except (SapwoodError, KeyError):
        return None
    return BaseConfig(model=model)


def run_of(trained: Loaded) -> Path | None:
    """The run that an adapter lies in, if it lies in one."""
    parents = trained.folder.resolve().parents[:2] if trained.folder is not None else ()
    return next((parent for parent in parents if (parent / RUN).is_file()), None)


def _default_folder(trained: Loaded, run: Path | None, to: str) -> Path:
    """``exports/`` in the run's folder; beside the adapter if it belongs to no run."""
    if run is not None:
        return run / "exports" / to
    folder = trained.folder or Path("export")
    return folder.with_name(f"{folder.name}-{to}")


def _held_out(run: Path) -> list[Example]:
    file = run / DATA / EVAL
    found = unpack_examples(file.read_bytes(), file) if file.is_file() else ()
    return [found[i] for i in range(min(HELD, len(found)))]
