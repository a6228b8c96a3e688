"""Public scripts, notebooks and configs through `sapwood import`, held against what is true of them.

The facts are in bench/imports.yaml. The scripts aren't kept here: ``--folder`` is where they lie, each by
the name that the facts have for it. With ``--fetch`` those that are missing are fetched from GitHub, at the
commit that was read. Every fact is right, or told (the report says that the config doesn't have it), or wrong
in silence. Exit code 1 where less than ``--right`` per cent are right, or one is wrong in silence.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from common import OUT, ROOT, Result, machine, report, table
from sapwood.config.sections import RunConfig
from sapwood.errors import SapwoodError
from sapwood.migrate.read import Migration, bring
from sapwood.migrate.write import validated

FACTS = ROOT / "bench" / "imports.yaml"
UNKNOWN = "?"  # of a fact: nothing in the file says it
FORMATTED = ("wording", "data.columns", "template.name", "data.system")  # by the function that makes the text
FAULTS = {  # whose text says that a setting differs from the script
    "lora.method": {"adapter-never-attached"},
    "base.compute_dtype": {"4bit-no-compute-dtype"},
}


def main() -> int:
    given = _arguments().parse_args()
    facts = machine()
    cases = known()
    missing = [case for case in cases if not present(given.folder / case["file"], case["link"], given.fetch)]
    rows = [measure(given.folder / case["file"], case) for case in cases if case not in missing]
    header = ["script", "facts", "right", "told", "in silence"]
    print(table(header, [_cells(row["file"], [row]) for row in rows]))
    totals = [(kind, [row for row in rows if row["kind"] == kind]) for kind in ("scripts", "configs")]
    totals.append(("new to the reader", [row for row in rows if not row["seen"]]))
    print(
        "\n" + table([*header, "right %"], [[*_cells(n, some), _share(some)] for n, some in totals if some])
    )
    for row in rows:
        for fact in row["facts"]:
            if fact["state"] == "silent" or (given.verbose and fact["state"] == "told"):
                print(
                    f"{fact['state']}: {row['file']} {fact['key']}: {fact['got']!r}, not {fact['wanted']!r}"
                )
    for case in missing:
        print(f"missing: {given.folder / case['file']}: {case['link']}", file=sys.stderr)
    given.folder = given.folder.name
    report("imports", given, facts, {"rows": rows, "missing": [case["link"] for case in missing]})
    silent = sum(_count(row, "silent") for row in rows)
    return int(not rows or silent > 0 or _share(rows) < given.right)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = OUT / "scripts"
    parser.add_argument(
        "--folder", type=Path, default=place, help="where the scripts lie (bench/out/scripts)"
    )
    parser.add_argument("--fetch", action="store_true", help="fetch those that are missing from GitHub")
    parser.add_argument("--right", type=float, default=90.0, help="per cent at least (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="list the facts that are told, too")
    parser.add_argument("--out", type=Path, help="the JSON file (bench/out/imports.json)")
    parser.set_defaults(smoke=False)
    return parser


def present(path: Path, link: str, fetch: bool) -> bool:
    """Whether a script is at hand, fetched if ``fetch``."""
    if path.is_file() or not fetch:
        return path.is_file()
    place = urllib.parse.quote(urllib.parse.unquote(link.removeprefix("https://github.com/")), safe="/")
    url = "https://raw.githubusercontent.com/" + place.replace("/blob/", "/", 1)
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return True


def known() -> list[dict[str, Any]]:
    """The scripts and configs, and the facts of each."""
    tree = YAML(typ="safe", pure=True).load(FACTS.read_text("utf-8"))
    return [{"kind": kind, **case} for kind in ("scripts", "configs") for case in tree[kind]]


# --- one script -------------------------------------------------------------------------------------------


def measure(path: Path, case: Mapping[str, Any]) -> Result:
    """Each fact of a case, and what an import has of it."""
    wanted = [
        *case["facts"].items(),
        *(("wording", text) for text in case.get("wording", ())),
        *(("said", name) for name in case.get("said", ())),
    ]
    row: Result = {"file": case["file"], "link": case["link"], "kind": case["kind"]}
    row["seen"] = case.get("seen", False)
    try:
        found = bring(path)
        validated(found.draft)
    except SapwoodError as error:  # all of it is refused, in one message
        facts = [{"key": k, "wanted": v, "got": None, "state": "told"} for k, v in wanted]
        return row | {"facts": facts, "refused": str(error)}
    return row | {"facts": [_fact(found, key, value) for key, value in wanted]}


def _fact(found: Migration, key: str, wanted: Any) -> dict[str, Any]:
    got = _got(found, key, wanted)
    if wanted == UNKNOWN and key not in found.draft.settings:
        state = "right" if told(found, key) else "silent"
    elif got == wanted:
        state = "right"
    else:
        state = "told" if told(found, key) else "silent"
    return {"key": key, "wanted": wanted, "got": got, "state": state}


def _got(found: Migration, key: str, wanted: Any) -> Any:
    """What a run by the written config would have: its setting, or sapwood's own default."""
    draft = found.draft
    if key == "wording":
        text = f"{draft.template or ''}\n{draft.settings.get('data.system', '')}"
        plain = text.replace("\\n", "\n")
        return wanted if wanted in plain else None
    if key == "said":
        left = [entry.theirs for entry in draft.entries if entry.state == "unread" or entry.matters]
        return wanted if wanted in left else None
    return _plain(draft.settings[key] if key in draft.settings else _default(key))


def _default(key: str) -> Any:
    fields: Any = RunConfig.model_fields
    for part in key.split(".")[:-1]:
        fields = fields[part].annotation.model_fields
    field = fields[key.rpartition(".")[2]]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def told(found: Migration, key: str) -> bool:
    """Whether the report says that the config doesn't have this of the script: by the key or its section."""
    draft, section = found.draft, key.partition(".")[0]
    if key in draft.unknown or FAULTS.get(key, set()) & {fault.name for fault in found.faults}:
        return True
    if key in FORMATTED and draft.resists:  # quoted as not followed
        return True
    if key == "wording":
        return any("template.name" in entry.en for entry in draft.entries)
    for entry in draft.entries:
        if entry.key == key and ("set " in entry.en or entry.state == "unread"):
            return True
        if entry.state == "unread" and _asks(entry.en, key, section):
            return True
    return False


def _asks(en: str, key: str, section: str) -> bool:
    """Whether a remark asks for a key: `set data.train`, `set lora`, or what a command line gave."""
    if section == "train" and "set what it gave" in en:
        return True
    return key in en or en.endswith(f"set {section}")


# --- the table --------------------------------------------------------------------------------------------


def _count(row: Result, state: str) -> int:
    return sum(fact["state"] == state for fact in row["facts"])


def _cells(name: str, rows: list[Result]) -> list[Any]:
    counts = [sum(_count(row, state) for row in rows) for state in ("right", "told", "silent")]
    return [name, sum(counts), *counts]


def _share(rows: list[Result]) -> float:
    facts = sum(len(row["facts"]) for row in rows)
    return 100 * sum(_count(row, "right") for row in rows) / facts if facts else 0.0


if __name__ == "__main__":
    sys.exit(main())
