"""Does the exported model say what the trained one says? The verdict, from numbers alone.

A format moves every log p a little. How much is measured, not chosen: the trained model itself with its
operands rounded in memory (`rounded`), against the trained model. Nothing of it comes from the writer that
is checked. An export that differs by more than `LIMIT` times that is another model, and so is one that
differs by more than `BOUNDS` allow, whatever the rounding says.

Measured, nats (real / rounded in memory): tiny models in F16 0.0003 / 0.00015, in Q8_0 0.004 / 0.0035, an
adapter on Q4_0 0.0027 / 0.0020. SmolLM2 in F16 0.005 / 0.003, in bf16 0.067 / 0.067, in Q8_0 0.13 / 0.10, an
adapter on Q4_1 0.12 / 0.08; with q and k unpermuted 0.36, with rsLoRA's scale misread 1.34.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sapwood.errors import ExportError, Problem
from sapwood.export.traces import Trace

LIMIT = (
    2.5  # times what rounding explains: attention's own formats and a program's order of sums are not in it
)
NEAR = 10  # times that: closer calls between stopping and going on may fall either way
LEAST = 1e-4  # nats that two programs differ by without any rounding
BOUNDS = {"F16": 0.05, "Q8_0": 0.4, "BF16": 0.2}  # nats that no right export of a format has
WIDEST = 0.5  # of any other: 4-bit weights with 8-bit inputs

Top = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Outside:
    """What another program says after the traces.

    Attributes:
        prompt_ids: each prompt's text in its tokens.
        exported: by trace and position, the `TOP` likeliest tokens (id, log p).
        stops: for each stop id of the trained template, whether generation ends on it.
    """

    prompt_ids: Sequence[Sequence[int]]
    exported: Sequence[Sequence[Top]]
    stops: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class Check:
    """The result. Differences are means of |difference of log p| in nats, over ``positions`` * `TOP`.

    ``format_difference``: what rounding in memory explains. ``problems``: also of the facts in the files.
    """

    prompts: int
    positions: int
    same_ids: int
    difference: float
    format_difference: float
    limit: float
    stops: Mapping[int, bool]
    stop_flips: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"problems": [str(problem) for problem in self.problems]}
        return values | {"passed": not self.problems, "stops": {str(k): v for k, v in self.stops.items()}}

    def line(self) -> str:
        return (
            f"{self.same_ids} of {self.prompts} prompts in equal tokens; log probabilities differ by "
            f"{self.difference:.4f} nat on average, the format alone explains "
            f"{self.format_difference:.4f} (limit {self.limit:.4f}); "
            f"stops as trained at {self.positions - self.stop_flips} of {self.positions} positions"
        )

    def refuse(self, where: str) -> None:
        """Raises ExportError if the check failed."""
        if self.problems:
            found = [Problem(p.what, where, p.why, p.mend) for p in self.problems]
            raise ExportError([*found, Problem("nothing was published", where)])


def allowed(noise: float, form: str) -> float:
    """Mean |difference of log p| in nats that a right export has at most. Arguments as `judge`."""
    return min(LIMIT * max(noise, LEAST), BOUNDS.get(form, WIDEST))


def judge(
    traces: Sequence[Trace], outside: Outside, form: str, noise: float, facts: Sequence[Problem] = ()
) -> Check:
    """Compare. Every fault becomes a problem of the result; nothing is raised.

    Args:
        form: GGUF's name of the type that most weights have.
        noise: what rounding into the export's formats explains, in nats (`rounded.yardstick`).
        facts: what the files say otherwise than the trained model's config.
    """
    told = [trace.trained for trace in traces]
    difference = _difference(told, outside.exported)
    limit = allowed(noise, form)
    same = [trace.ids == list(ids) for trace, ids in zip(traces, outside.prompt_ids, strict=True)]
    flips = sum(
        _flips(row, top, frozenset(outside.stops), NEAR * max(noise, LEAST))
        for rows, tops in zip(told, outside.exported, strict=True)
        for row, top in zip(rows, tops, strict=True)
    )
    problems = [*facts]
    if not all(same):
        first = traces[same.index(False)]
        problems.append(
            Problem(
                f"{same.count(False)} of {len(same)} prompts become other tokens in the export",
                why=f"the first is {first.messages[-1].text[:60]!r}",
                mend="put back the tokenizer that the adapter was trained with",
            )
        )
    if not difference <= limit:  # NaN fails too
        why = f"{limit:.4f} is allowed: rounding to {form} explains {noise:.4f}"
        problems.append(Problem(f"log probabilities differ by {difference:.4f} nat on average", why=why))
    if deaf := [id for id, stops in outside.stops.items() if not stops]:
        why = "the trained model stops there; the export would write on"
        problems.append(Problem(f"generation doesn't end on token {', '.join(map(str, deaf))}", why=why))
    if flips:
        problems.append(
            Problem(
                f"at {flips} positions the export and the trained model disagree about the end of the answer"
            )
        )
    return Check(
        prompts=len(traces),
        positions=sum(len(rows) for rows in told),
        same_ids=sum(same),
        difference=difference,
        format_difference=noise,
        limit=limit,
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
    """Whether one of the two programs stops here, and the other clearly doesn't."""
    ends = sorted(stops)
    others = row.clone()
    others[ends] = -float("inf")
    margin = float(row[ends].max() - others.max())
    return (margin > 0) != (top[0][0] in stops) and abs(margin) > near
