"""Sample answers of a run at its end: what the model said before training, beside what it says after."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sapwood.run.query import read_samples
from sapwood.show.manner import colours
from sapwood.show.stream import SafeStream
from sapwood.show.tables import side_by_side
from sapwood.types import RowId, Sample

SHOWN = 4  # prompts; all of them are in samples.jsonl
PLAIN = str.maketrans({"─": "-", "›": ">", "…": "..."})  # for a terminal that can't show these
VALUES = ("prompt", "answer", "reference", "num_tokens", "stopped")
NEEDED = {"step", "row", *VALUES}


def show_answers(run: Path, stream: SafeStream) -> None:
    """Print the answers to the probes before training (step 0) and after it; nothing if one of the two wasn't
    asked for."""
    pairs = before_and_after(run)
    if not pairs:
        return
    width = shutil.get_terminal_size((100, 24)).columns
    shown = side_by_side(pairs[:SHOWN], width, ("before", "after"), color=colours(stream))
    if not stream.encoding.lower().startswith("utf"):
        shown = shown.translate(PLAIN)
    rest = f"... and {len(pairs) - SHOWN} more in samples.jsonl\n\n" if len(pairs) > SHOWN else ""
    stream.write(f"\nThe same prompts, before and after:\n\n{shown}\n{rest}")
    stream.flush()


def before_and_after(run: Path) -> list[tuple[Sample, Sample]]:
    """The answers at step 0 and at the last evaluation to the same probes."""
    samples = [sample for sample in read_samples(run) if sample.keys() >= NEEDED]
    last = max((sample["step"] for sample in samples), default=0)
    before = {_key(sample): sample for sample in samples if sample["step"] == 0}
    after = {_key(sample): sample for sample in samples if sample["step"] == last}
    return [(_sample(before[key]), _sample(after[key])) for key in before if last and key in after]


def _key(sample: dict[str, Any]) -> tuple[str, str]:
    return str(sample["row"]), str(sample["prompt"])


def _sample(record: dict[str, Any]) -> Sample:
    row = record["row"]
    where = RowId(**row) if isinstance(row, dict) else RowId(str(row), 0)
    return Sample(where, *(record[name] for name in VALUES))
