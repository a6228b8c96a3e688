"""A run's own figures: evaluators ask the model while it trains, and one figure decides which evaluation is
best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from sapwood.adapter.model import LoraModel
from sapwood.errors import ConfigError
from sapwood.prepare.study import Study
from sapwood.serve.model import Model
from sapwood.train.processes.world import World
from sapwood.types import Evaluated

Evaluator = Callable[[Model], Mapping[str, float]]
"""A function that asks the model as it stands (generate, log_prob, logits), and returns numbers by name."""
Measure = Callable[[], dict[str, float]]


def measure_of(
    evaluators: Sequence[Evaluator], model: LoraModel, study: Study, system: str | None, world: World
) -> Measure | None:
    """A function that returns all evaluators' numbers, by the model as it stands. Raises ConfigError in
    several processes, because a model can't be asked by one of them alone."""
    if not evaluators:
        return None
    if world.size > 1:
        raise ConfigError(
            "evaluators work in a run of one process only",
            "evaluators",
            f"this run has {world.size} processes",
        )
    asked = Model(model.peft, study.spec.tokenizer, study.renderer, system, model.switched_off)
    return lambda: {name: value for one in evaluators for name, value in _numbers(one, asked).items()}


def judged(event: Evaluated, best: str) -> float:
    """The figure by which `eval.best` compares evaluations: the lower, the better."""
    if best == "loss":
        return event.loss
    name = best.removeprefix("-")
    if name not in event.scores:
        found = ", ".join(["loss", *event.scores])
        raise ConfigError(f"no score is called {name!r}", "eval.best", f"this run has {found}")
    return event.scores[name] if best.startswith("-") else -event.scores[name]


def _numbers(evaluator: Evaluator, model: Model) -> dict[str, float]:
    found = evaluator(model)
    name = getattr(evaluator, "__name__", type(evaluator).__name__)
    if not isinstance(found, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller's function
        raise ConfigError(
            f"the evaluator {name} must return a dict", "evaluators", mend='return {"accuracy": 0.5}'
        )
    wrong = [key for key, value in found.items() if not _is_number(value)]
    if wrong:
        why = f"{wrong[0]!r} is {found[wrong[0]]!r}"
        raise ConfigError(f"the evaluator {name} must return numbers", "evaluators", why)
    return {str(key): float(value) for key, value in found.items()}


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
