"""The memory plan: how much a run will hold at its worst moment, and what it does where that is too much."""

from sapwood.plan.choose import MemoryChoice, cheaper, choose_plan, settings_line, settled
from sapwood.plan.memory import MemoryPlan, plan_memory, what_fits, workload

__all__ = [
    "MemoryChoice",
    "MemoryPlan",
    "cheaper",
    "choose_plan",
    "plan_memory",
    "settings_line",
    "settled",
    "what_fits",
    "workload",
]  # fmt: skip
