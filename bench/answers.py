"""Answers of a trained model by llama.cpp and by torch's own loop, in turns in one call: how long each takes
for the same held-out prompts, loading apart, and how many answers end by themselves. llama.cpp's time holds
its start and the writing of the adapter.

With ``--same N``: for how many of N prompts both write the same tokens, where both have the base's weights
rounded to F16 (torch computes in fp32).

    python bench/answers.py RUN
    python bench/answers.py RUN --same 200 --turns 0
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import Result, arguments, machine, report, table

SIDES = ("torch", "llama.cpp")


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("target", nargs="?", help="a run, or an adapter")
    parser.add_argument("--runs", default="runs", help="folder of runs (%(default)s)")
    parser.add_argument("--count", type=int, default=40, help="prompts (%(default)s)")
    parser.add_argument("--tokens", type=int, default=80, help="of an answer, at most (%(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="of each side (%(default)s)")
    parser.add_argument("--same", type=int, default=0, metavar="N", help="compare the tokens of N answers")
    given = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="sapwood-answers-") as folder:
        target = given.target
        if given.smoke:
            target, given.count, given.tokens = _tiny(Path(folder)), 4, 8
        if target is None:
            parser.error("name a run")
        rows, same = measure(given, target), compare(given, target, Path(folder))
    payload = {"rows": rows, "same": same, "xllamacpp": version("xllamacpp")}
    report("answers", given, facts, payload)
    return 0


def measure(given: Any, target: str) -> list[Result]:
    """Both sides in turns."""
    from sapwood.serve.load import find_target, load_found
    from sapwood.serve.settings import Settings

    if not given.turns:
        return []
    found = find_target(target, Path(given.runs))
    loaded = load_found(found)
    prompts = prompts_of(target, given.runs, loaded, given.count)
    settings = Settings(max_new_tokens=given.tokens)
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    told: dict[str, Any] = {}
    for turn in range(given.turns):
        for side in list(SIDES) if turn % 2 == 0 else list(SIDES)[::-1]:
            began = time.perf_counter()
            told[side] = spoken(loaded, found.held, prompts, settings, side)
            times[side].append(time.perf_counter() - began)
    rows: list[Result] = [
        {
            "name": side,
            "seconds": statistics.median(times[side]),
            "tokens": sum(one.num_tokens for one in told[side]),
            "stopped": sum(one.stopped for one in told[side]),
            "answers": len(prompts),
            "turns": times[side],
        }
        for side in SIDES
    ]
    print(table(["", "s", "tokens", "stopped", "answers"], [list(row.values())[:5] for row in rows]))
    rates = [row["tokens"] / row["seconds"] for row in rows]
    print(f"torch writes {rates[0] / rates[1]:.2f} times as many tokens a second as llama.cpp\n")
    return rows


def spoken(loaded: Any, held: Any, prompts: Sequence[Sequence[int]], settings: Any, by: str) -> Any:
    from sapwood.answers.speaker import speaking

    with speaking(loaded, held, prompts, settings, by=by) as speaker:
        answers = speaker.answers("the adapter")
        assert speaker.kind == by, "llama.cpp couldn't"
        return answers


def compare(given: Any, target: str, folder: Path) -> Result | None:
    """How many answers are the same tokens, over F16 weights."""
    import torch

    from sapwood.answers import speaker as speaker_module
    from sapwood.answers.files import write_base
    from sapwood.serve.load import find_target, load_found
    from sapwood.serve.settings import Settings

    if not given.same:
        return None
    found = find_target(target, Path(given.runs))
    loaded = load_found(found, exact=True)
    with torch.no_grad():
        for name, parameter in loaded.network.named_parameters():
            if ".lora_" not in name:
                parameter.copy_(parameter.half().float())
    file = folder / "base.gguf"
    write_base(loaded, None, file)
    prompts = prompts_of(target, given.runs, loaded, given.same)
    settings = Settings(max_new_tokens=given.tokens)
    with (
        patch.object(speaker_module, "base_file", lambda *_, **__: file),
        patch.object(speaker_module, "sound", lambda _: True),
    ):
        told = [spoken(loaded, found.held, prompts, settings, by) for by in SIDES]
    equal = [left.ids == right.ids for left, right in zip(*told, strict=True)]
    tokens = sum(len(one.ids) for one in told[0])
    apart = [
        next((i for i, (a, b) in enumerate(zip(x.ids, y.ids, strict=False)) if a != b), len(y.ids))
        for x, y, same in zip(*told, equal, strict=True)
        if not same
    ]
    print(f"same tokens over F16: {sum(equal)} of {len(equal)} prompts, {tokens} tokens; 95 % are asked for")
    print(f"places of the first difference: {sorted(apart)}\n")
    return {"same": sum(equal), "prompts": len(equal), "tokens": tokens, "first_difference": sorted(apart)}


def prompts_of(target: str, runs: str, loaded: Any, count: int) -> list[list[int]]:
    """Of the run's held-out rows, then of its training rows; of an adapter, the nursery's questions."""
    from sapwood.commands.eval import held_out
    from sapwood.errors import SapwoodError
    from sapwood.evaluate import probes_of
    from sapwood.prepare.cache import unpack_examples
    from sapwood.prepare.study import DATA, TRAIN
    from sapwood.run import query
    from sapwood.types import Message

    try:
        run = query.find_run(Path(runs), target)
        path = run / DATA / TRAIN
        examples = [*held_out(run), *unpack_examples(path.read_bytes(), path)]
        return [list(probe.ids) for probe in probes_of(loaded, examples[:count], count)]
    except SapwoodError:
        questions = [f"Why does tree number {i} have yellow leaves?" for i in range(count)]
        return [loaded.renderer.prompt_ids([Message("user", text)]) for text in questions]


def _tiny(folder: Path) -> str:
    from tests.base.tiny import tiny_llama
    from tests.endpoint.serving import make_adapter

    return str(make_adapter(tiny_llama(folder), folder / "adapter", 1))


if __name__ == "__main__":
    raise SystemExit(main())
