"""Write docs/families.md, what each family of models can, by the test that tried it:
``python docs/families.py LINES``.

LINES is what ``SAPWOOD_ALL_ARCHITECTURES=1 SAPWOOD_FAMILIES=LINES pytest tests/train/test_architectures.py``
left. Each family is a tiny random model there: checked, trained, stopped and resumed, opened by plain PEFT,
and asked. A family of which LINES says nothing keeps the row that it has.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = """# Families of models

This page says what a tiny random model of each family did in `tests/train/test_architectures.py`. It was
checked, trained for two steps, stopped, resumed and asked. Then plain PEFT opened its adapter on the whole
checkpoint, and gave the same logits, the same loss and the same gradient: to 1e-5 of the largest, in fp32.
The families are those that the pinned transformers maps to causal language models, and to models for text and
pictures or sound. A family of which no tiny copy can be made is left out.

**together**: rows share a forward pass, and beginnings that they share are computed once. **alone**: each
row has a pass of its own, with the reason that the trial found. **refused**: `check` and `train` say the same
sentence. **text of a wrapper**: text rows train the language model in it; the rest stays in the checkpoint. A
wrapper that takes no text without a picture is asked through the language model in it.
GGUF: a base in that format, and `sapwood export --to gguf`, `gguf-adapter` and `ollama`. A config with values
that llama.cpp doesn't compute is refused, for example EXAONE 4 with windows.

This page is written by `docs/families.py` from what the test left.

"""
TRAINED = ("together", "alone")
CELLS = re.compile(r"(?<!\\)\|")
UNMADE = "unmade"  # no tiny copy: nothing is said of it


def page(lines: str, before: str = "") -> str:
    """The page, of a line of JSON for each family; the last one of a family counts. ``before``: the page that
    it takes the place of."""
    found = rows_of(before)
    for line in lines.splitlines():
        told = json.loads(line)
        found[told["kind"]] = told
    made = {kind: told for kind, told in found.items() if told["rows"] != UNMADE}
    refused = {kind: told for kind, told in made.items() if told["rows"] == "refused"}
    trained = {kind: told for kind, told in made.items() if told["rows"] in TRAINED}
    counts = {rows: sum(told["rows"] == rows for told in made.values()) for rows in (*TRAINED, "refused")}
    told = ", ".join(f"{number} {rows}" for rows, number in counts.items())
    share = 100 * len(trained) / len(made)
    return HEAD + "\n".join(
        [
            f"{len(trained)} of {len(made)} families are trained ({share:.1f} %): {told}.",
            "",
            "## Refused",
            "",
            *_table(
                ("family", "what is said"), [(f"`{kind}`", _said(refused[kind])) for kind in sorted(refused)]
            ),
            "",
            "## Trained",
            "",
            *_table(
                ("family", "rows", "text of a wrapper", "GGUF", "why"),
                [(f"`{kind}`", *_row(trained[kind])) for kind in sorted(trained)],
            ),
            "",
        ]
    )


def rows_of(text: str) -> dict[str, Mapping[str, Any]]:
    """What a page says of each family."""
    found: dict[str, Mapping[str, Any]] = {}
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in CELLS.split(line)[1:-1]]
        if len(cells) == 2 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = {"rows": "refused", "why": cells[1]}
        elif len(cells) == 5 and cells[0].startswith("`"):
            marks = {key: cell == "yes" for key, cell in zip(("wrapper", "gguf"), cells[2:4], strict=True)}
            found[cells[0].strip("`")] = {"rows": cells[1], "why": cells[4], **marks}
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _row(told: Mapping[str, Any]) -> tuple[str, ...]:
    marks = ("yes" if told.get(key) else "" for key in ("wrapper", "gguf"))
    return (str(told["rows"]), *marks, _short(_said(told)))


def _said(told: Mapping[str, Any]) -> str:
    return " ".join(str(told["why"]).split()).replace("|", "\\|")


def _short(why: str) -> str:
    return why if len(why) <= 160 else why[:159] + "…"


if __name__ == "__main__":
    text = page(
        Path(sys.argv[1]).read_text(encoding="utf-8"), (HERE / "families.md").read_text(encoding="utf-8")
    )
    (HERE / "families.md").write_text(text, encoding="utf-8")
    print(next(line for line in text.splitlines() if " families are trained " in line))
