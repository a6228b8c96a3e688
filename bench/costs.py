"""What the estimate of a run's time is made of (`plan/time.py`), measured in turns in one process:

- ``efficiency``: operations that a pack needs a second, of the machine's matrix rate;
- ``twice``: the share that a pass takes longer if all layers are computed twice;
- ``pack``: tokens whose time one more pack costs, the rows being the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import add_data, arguments, default_data, machine, report, scratch, table

TURNS, PARTS = 3, 8  # passes of each kind; packs that the rows are divided into


def main() -> int:
    parser = arguments(__doc__, rows=8)
    add_data(parser)
    parser.add_argument("--storage", default="auto", help="of the base (%(default)s)")
    given = parser.parse_args()
    facts = machine()
    with scratch() as folder:
        found = measure(given, folder)
    print(table(list(found), [[round(v, 5) if isinstance(v, float) else str(v) for v in found.values()]]))
    report("costs", given, facts, found)
    return 0


def measure(given: Any, folder: str) -> dict[str, Any]:
    import torch

    from sapwood.adapter.attach import attach_lora
    from sapwood.base.inspect import count_parameters
    from sapwood.base.load import load_base
    from sapwood.base.storage.storages import storage_dtype
    from sapwood.compute.recompute import recompute_layers
    from sapwood.config.file import load_config
    from sapwood.machine.device import CPU
    from sapwood.machine.measure import dtype_name, machine_facts
    from sapwood.plan.choose import choose_plan, settled
    from sapwood.prepare.study import study_config
    from sapwood.train.loop import pack_examples

    config = load_config(None, settings(given, folder))
    study = study_config(config)
    config = settled(config, choose_plan(study, config, CPU), CPU)
    torch.set_num_threads(config.train.threads or 1)
    base = load_base(study.spec, config.base)
    model = attach_lora(base, config.lora, 0)
    model.peft.train()
    rows = [study.data.train[i] for i in range(given.rows)]
    one = pack_examples(rows, config)
    size = -(-len(rows) // PARTS)
    many = [pack for at in range(0, len(rows), size) for pack in pack_examples(rows[at : at + size], config)]

    def twice() -> None:
        recompute_layers(model.network, True)
        passes(model, one)
        recompute_layers(model.network, 0)

    once, both, parts = in_turns(lambda: passes(model, one), twice, lambda: passes(model, many))
    linear, embedding = count_parameters(study.spec)
    flops = sum(4.0 * len(pack.ids) * linear + 4.0 * len(pack.targets) * embedding for pack in one)
    facts = machine_facts(CPU)
    rate = facts["gflops"][dtype_name(storage_dtype(config.base))] * 1e9
    tokens, divided = (sum(len(pack.ids) for pack in packs) for packs in (one, many))
    ratio = parts / once  # (divided + packs * cost) / (tokens + cost), a token and a pack being alike
    cost = (ratio * tokens - divided) / (len(many) - ratio * len(one))
    return {
        "efficiency": (flops + 4.0 * cost * len(one) * linear) / once / rate,
        "twice": both / once - 1,
        "pack": cost,
        "seconds": once,
        "tokens": tokens,
        "packs": f"{len(one)} and {len(many)}",
        "storage": config.base.storage,
        "threads": config.train.threads,
        "gflops": rate / 1e9,
        "load": facts["load"],
    }


def settings(given: Any, folder: str) -> list[str]:
    words = [f"save.dir={folder}", "data.eval=0", "pack.length=4096", f"base.storage={given.storage}"]
    if given.smoke:
        from pathlib import Path

        from tests.base.tiny import tiny_llama

        return [*words, f"base.model={tiny_llama(Path(folder))}", "data.train=builtin:nursery"]
    return [*words, f"base.model={given.model}", f"data.train={given.data or default_data()}"]


def passes(model: Any, packs: Sequence[Any]) -> None:
    """Forward and backward over each; gradients are dropped."""
    from sapwood.adapter.inputs import attending
    from sapwood.train.loop import batch_of, forward_loss

    for pack in packs:
        with attending(model):
            loss = forward_loss(model, batch_of(model, pack))
            (loss.total / max(1, loss.num_targets)).backward()
    for parameter in model.parameters.values():
        parameter.grad = None


def in_turns(*kinds: Callable[[], None]) -> list[float]:
    """The shortest seconds of each, after one that warms up; load of others only adds."""
    times: list[list[float]] = [[] for _ in kinds]
    for turn in range(TURNS + 1):
        for kind, own in zip(kinds, times, strict=True):
            began = time.perf_counter()
            kind()
            if turn:
                own.append(time.perf_counter() - began)
        print(f"turn {turn} of {TURNS}: {[round(own[-1], 2) for own in times if own]}", file=sys.stderr)
    return [min(own) for own in times]


if __name__ == "__main__":
    sys.exit(main())
