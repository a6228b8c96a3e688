"""``sapwood verify``: every byte of a run against what was written; ``--repair`` sets damaged parts aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sapwood.adapter.elsewhere.kind import is_adapter
from sapwood.adapter.facts import ADAPTER_DIR, verify_adapter
from sapwood.adapter.folder import load_adapter
from sapwood.commands.adapters.adopt import moved
from sapwood.config.file import load_config
from sapwood.errors import ConfigError, Problem, SapwoodError, StorageError
from sapwood.prepare.study import DATA
from sapwood.run import query
from sapwood.run.files import set_aside, to_json, verify_dir, write_atomic
from sapwood.run.identity import read_about
from sapwood.run.lines import read_lines, to_line
from sapwood.run.store import EVENTS, RUN, SAMPLES, reopen_run
from sapwood.serve.load import open_target
from sapwood.train.checkpoint import checkpoints


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of a run, what is wrong with it, and what a repair did. ``vital``: nothing can replace the
    part."""

    part: str
    problems: tuple[Problem, ...] = ()
    repaired: str = ""
    vital: bool = False


def verify_run(
    name: str,
    runs: Path,
    *,
    repair: bool,
    base: str | None = None,
    template: str | None = None,
    as_json: bool,
) -> None:
    """Print a line for each part. Raises StorageError naming what is damaged and was not repaired. ``name``
    may also be an adapter, even of another program. The adapter is then opened on its base."""
    run = Path(name)
    if (run / RUN).is_file() or not is_adapter(run):
        run = query.find_run(runs, name)
        findings = repair_run(run) if repair else examine_run(run)
    elif repair:
        raise ConfigError("an adapter by itself can't be repaired", "--repair", "no second copy is kept")
    else:
        findings = examine_adapter(run, runs, base, template)
    if as_json:
        rows = [
            {"part": f.part, "problems": [str(p) for p in f.problems], "repaired": f.repaired}
            for f in findings
        ]
        print(to_json({"run": str(run), "parts": rows}), end="")
    else:
        for finding in findings:
            print(f"{'ok' if not finding.problems else finding.repaired or 'DAMAGED':<12} {finding.part}")
    left = [problem for f in findings if not f.repaired for problem in f.problems]
    if left:
        raise StorageError(left)


def examine_run(run: Path) -> list[Finding]:
    """Look at every part of a run; nothing is written."""
    folders = [run / DATA, *checkpoints(run)]
    findings = [_look(run, "run.json", lambda: read_about(run), vital=True)]
    findings.append(_look(run, "config.yaml", lambda: load_config(run / "config.yaml"), vital=True))
    for folder in folders:
        part = folder.relative_to(run).as_posix()
        findings.append(_look(run, part, lambda f=folder: verify_dir(f), vital=part == DATA))
    if (run / ADAPTER_DIR).exists():
        findings.append(_look(run, ADAPTER_DIR, lambda: load_adapter(run / ADAPTER_DIR)))
    findings += [
        _look(run, folder.relative_to(run).as_posix(), lambda f=folder: verify_dir(f))
        for folder in sorted((run / "exports").glob("[!.]*"))
    ]
    return findings + [_look(run, log, lambda n=log: _check_log(run / n)) for log in (EVENTS, SAMPLES)]


def examine_adapter(place: Path, runs: Path, base: str | None, template: str | None) -> list[Finding]:
    """Look at an adapter: its files, and whether it opens on its base and changes answers."""
    findings = [_look(place, "files", lambda: verify_adapter(place, sealed=False))] if place.is_dir() else []
    return [
        *findings,
        _look(place, "opens", lambda: moved(open_target(str(place), runs, base=base, template=template))),
    ]


def repair_run(run: Path) -> list[Finding]:
    """Set damaged checkpoints and a damaged adapter aside, and drop lines of a log that can't be read (the
    log as it was is kept beside it). `sapwood resume` then makes again what is missing."""
    with reopen_run(run):
        return [_mend(run, finding) for finding in examine_run(run)]


def _mend(run: Path, finding: Finding) -> Finding:
    if not finding.problems or finding.vital:
        return finding
    path = run / finding.part
    lines = read_lines(path) if path.suffix == ".jsonl" else None
    aside = set_aside(path, "damaged")
    if lines is not None:
        write_atomic(path, b"".join(to_line(record) for record in lines.records))
    return Finding(finding.part, finding.problems, f"set aside as {aside.name}")


def _look(run: Path, part: str, check: Callable[[], object], *, vital: bool = False) -> Finding:
    try:
        check()
    except SapwoodError as error:
        return Finding(part, error.problems, vital=vital)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        return Finding(part, (Problem(f"can't be read: {error}", str(run / part)),), vital=vital)
    return Finding(part)


def _check_log(path: Path) -> None:
    if garbage := read_lines(path).garbage:
        why = "no weight depends on it; figures of these lines are lost"
        mend = "`sapwood verify RUN --repair` drops them and keeps the file as it was"
        raise StorageError(f"{garbage} lines can't be read", str(path), why, mend)
