"""Write docs/families.md, what each family of models can, by the test that tried it:
``python docs/families.py LINES``.

LINES is what ``SAPWOOD_ALL_ARCHITECTURES=1 SAPWOOD_FAMILIES=LINES pytest tests/train/test_architectures.py``
left. Each family is a tiny random model there: checked, trained for a step, opened and asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = """# Families of models

What a tiny random model of each family did in `tests/train/test_architectures.py`: checked, trained for a
step, opened and asked. These are the causal language models of the pinned transformers of which a tiny
random copy can be made.
**together**: rows share a forward pass, and beginnings
that they share are computed once. **alone**: each row has a pass of its own, with the reason that the trial
found. **refused**: `check` and `train` say the same sentence. GGUF: `sapwood export --to gguf`,
`gguf-adapter` and `ollama`.

This page is written by `docs/families.py` from what the test left.

"""
WORDS = {"together": "together", "alone": "alone", "refused": "refused"}


def page(lines: str) -> str:
    """The page, of a line of JSON for each family; the last one of a family counts."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in lines.splitlines():
        told = json.loads(line)
        found[told["kind"]] = told
    counts = {rows: sum(told["rows"] == rows for told in found.values()) for rows in WORDS}
    told = ", ".join(f"{number} {rows}" for rows, number in counts.items())
    rows = [f"| `{kind}` | {_row(found[kind])} |" for kind in sorted(found)]
    return (
        HEAD
        + f"{len(found)} families: {told}.\n\n| family | rows | GGUF | why |\n|---|---|---|---|\n"
        + ("\n".join(rows) + "\n")
    )


def _row(told: Mapping[str, Any]) -> str:
    why = " ".join(str(told["why"]).split()).replace("|", "\\|")
    why = why if len(why) <= 160 else why[:159] + "…"
    return f"{told['rows']} | {'yes' if told.get('gguf') else ''} | {why}"


if __name__ == "__main__":
    (HERE / "families.md").write_text(page(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
