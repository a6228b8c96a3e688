"""Does the exported model say what the trained one says? The verdict, from numbers alone.

Quantisation moves every log p a little, with an adapter and without. So the yardstick is measured, not
chosen: the base alone, in the export's format, against the base alone in torch, on the same tokens. An export
whose error is more than 1.2 times that is another model (measured on SmolLM2 in Q4_1, nats: 0.09 right, 0.36
with q and k unpermuted, 1.34 with rsLoRA's scale misread).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sapwood.errors import ExportError, Problem
from sapwood.export.traces import Trace

LIMIT = 1.2  # times what quantisation of the base alone causes
NEAR = 10  # times that: closer calls between stopping and going on may fall either way

Top = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Outside:
    """What another program says after the traces.

    Attributes:
        prompt_ids: each prompt's text in its tokens.
        exported, base: by trace and position, the `TOP` likeliest tokens (id, log p).
        stops: for each stop id of the trained template, whether generation ends on it.
    """

    prompt_ids: Sequence[Sequence[int]]
    exported: Sequence[Sequence[Top]]
    base: Sequence[Sequence[Top]]
    stops: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class Check:
    """The result. Differences are means of |difference of log p| in nats, over ``positions`` * `TOP`."""

    prompts: int
    positions: int
    same_ids: int
    difference: float
    base_difference: float
    limit: float
    stops: Mapping[int, bool]
    stop_flips: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"problems": [str(problem) for problem in self.problems]}
        return values | {"passed": not self.problems, "stops": {str(k): v for k, v in self.stops.items()}}

    def line(self) -> str:
        return (
            f"{self.same_ids} of {self.prompts} prompts in equal tokens; mean |Δ log p| "
            f"{self.difference:.4f} nat, the base alone {self.base_difference:.4f} (limit {self.limit:.4f}); "
            f"stops as trained at {self.positions - self.stop_flips} of {self.positions} positions"
        )

    def refuse(self, where: str) -> None:
        """Raises ExportError where the check failed."""
        if self.problems:
            found = [Problem(p.what, where, p.why, p.mend) for p in self.problems]
            raise ExportError([*found, Problem("nothing was published", where)])


def judge(traces: Sequence[Trace], outside: Outside, own_rounding: float = 0.0) -> Check:
    """Compare. Every fault becomes a problem of the result; nothing is raised.

    ``own_rounding``: what the run's own formats cause in the base alone, where ``traces`` hold its base
    without it. It is independent of what the export's cause, so their squares add up.
    """
    told = [trace.trained for trace in traces]
    quiet = [trace.base for trace in traces]
    difference = _difference(told, outside.exported)
    noise = math.hypot(_difference(quiet, outside.base), own_rounding)
    same = [trace.ids == list(ids) for trace, ids in zip(traces, outside.prompt_ids, strict=True)]
    flips = sum(
        _flips(row, top, frozenset(outside.stops), NEAR * noise)
        for rows, tops in zip(told, outside.exported, strict=True)
        for row, top in zip(rows, tops, strict=True)
    )
    problems: list[Problem] = []
    if not all(same):
        first = traces[same.index(False)]
        problems.append(
            Problem(
                f"{same.count(False)} of {len(same)} prompts become other tokens",
                why=f"the first is {first.messages[-1].text[:60]!r}",
                mend="the tokenizer in the file isn't the one that was trained with",
            )
        )
    if not difference <= LIMIT * noise:  # NaN fails too
        why = f"{LIMIT} times what quantisation of the base alone causes ({noise:.4f}) is allowed"
        problems.append(Problem(f"log p differs by {difference:.4f} nat in the mean", why=why))
    if deaf := [id for id, stops in outside.stops.items() if not stops]:
        why = "the trained model stops there; the export would write on"
        problems.append(Problem(f"generation doesn't end on token {', '.join(map(str, deaf))}", why=why))
    if flips:
        problems.append(
            Problem(f"at {flips} positions the export ends where the trained model doesn't, or not")
        )
    return Check(
        prompts=len(traces),
        positions=sum(len(rows) for rows in told),
        same_ids=sum(same),
        difference=difference,
        base_difference=noise,
        limit=LIMIT * noise,
        stops=outside.stops,
        stop_flips=flips,
        problems=tuple(problems),
    )


def _difference(ours: Sequence[Tensor], theirs: Sequence[Sequence[Top]]) -> float:
    """Mean |difference| over the tokens that the other program finds likeliest."""
    found = [
        abs(float(row[id]) - log_p)
        for rows, tops in zip(ours, theirs, strict=True)
        for row, top in zip(rows, tops, strict=True)
        for id, log_p in top
    ]
    return sum(found) / len(found)


def _flips(row: Tensor, top: Top, stops: frozenset[int], near: float) -> bool:
    """Does one of the two stop here, and the other clearly not?"""
    ends = sorted(stops)
    others = row.clone()
    others[ends] = -float("inf")
    margin = float(row[ends].max() - others.max())
    return (margin > 0) != (top[0][0] in stops) and abs(margin) > near
