"""Several processes against one: the losses of 20 steps, and the memory of the base in each process.

    python bench/processes.py              SmolLM2 in fp32: 1, 2 and 4 processes, and 2 with the base in parts
    python bench/processes.py --steps 5    shorter; --only losses or memory: one of the two

Each run is started by torchrun, as a person would. Memory of the base is counted three times in each process:
the bytes of the frozen weights that it holds between two packs, the most that it holds at any layer of a pass
(FSDP2 makes whole what computes), and its resident memory, less what it had after the same work on a tiny
model: code, kernels and connections are no part of a base.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import machine, report

TOLERANCE, SHARE = 1e-5, 0.60
CASES = {
    "1 process": (1, "none"),
    "2 processes": (2, "none"),
    "4 processes": (4, "none"),
    "2, base in parts": (2, "base"),
}


def config_of(folder: Path, steps: int) -> Path:
    """The nursery's rows, dropout and all, each in a pack of its own, so that every process has one as it is:
    where packs must be cut smaller, dropout draws other masks (docs/scale.md)."""
    path = folder / "config.yaml"
    path.write_text(
        "data: {train: builtin:nursery, eval: 8}\n"
        f"train: {{max_steps: {steps}, batch_size: 4, micro_batch: 1}}\n"
        "pack: {length: 256}\n"
        "eval: {samples: 0}\n"
        "base: {storage: fp32}\n"
    )
    return path


def torchrun(size: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", **os.environ})


def losses(config: Path, runs: Path, size: int, shard: str) -> list[float]:
    from sapwood.run.query import list_runs, read_events

    torchrun(size, "-m", "sapwood", "train", str(config), f"save.dir={runs}", f"train.shard={shard}")
    (run,) = list_runs(runs)
    return [event["data"]["loss"] for event in read_events(run.path)[0] if event["kind"] == "stepped"]


def memory(config: Path, folder: Path, size: int, shard: str) -> list[dict[str, int]]:
    """Of each process, after loading and one rehearsed pack."""
    torchrun(size, __file__, "--hold", str(config), str(folder), shard)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("held-*.json"))]


def hold(config: Path, folder: Path, shard: str) -> None:
    """What each process of `memory` does."""
    import ctypes
    import gc

    import psutil

    from sapwood.config.file import load_config
    from sapwood.prepare.study import study_config
    from sapwood.train.processes.follow import build
    from sapwood.train.processes.shard import decoder_layers, gathered_bytes, held_bytes
    from sapwood.train.processes.world import join
    from sapwood.train.rehearse import rehearse

    def resident() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(psutil.Process().memory_full_info().uss)

    with join() as world:
        parts = f"train.shard={shard}"
        small = [parts, f"base.model={folder / 'tiny-llama'}", "template.overlong=drop"]
        tiny = load_config(config, small)
        study = study_config(tiny)
        rehearse(build(study.spec, tiny, world)[1], study.data, tiny)
        settings = load_config(config, [parts])
        study = study_config(settings)
        before = resident()
        _, model = build(study.spec, settings, world)
        found = {"base": held_bytes(model), "resident": resident() - before}
        during: list[int] = [getattr(model.head.weight, "largest", 0)]
        for layer in decoder_layers(model.backbone):
            for part in layer.children():  # while they compute, their layer is whole
                part.register_forward_hook(lambda *_: during.append(gathered_bytes(model)))
        rehearse(model, study.data, settings)
        found |= {"base in a pass": found["base"] + max(during), "resident after it": resident() - before}
        (folder / f"held-{world.rank}.json").write_text(json.dumps(found))


def compare_losses(
    folder: Path, config: Path, steps: int, cases: Sequence[str]
) -> tuple[dict[str, Any], bool]:
    """Losses by case and their distance from those of one process; whether all are near enough."""
    found: dict[str, Any] = {}
    gaps: dict[str, float] = {}
    for case in ("1 process", *cases):
        size, shard = CASES[case]
        found[case] = losses(config, folder / f"runs-{size}-{shard}", size, shard)
        gaps[case] = max(abs(a - b) for a, b in zip(found["1 process"], found[case], strict=True))
        print(f"{case:<18} largest difference of {steps} losses {gaps[case]:.1e}", flush=True)
    return {**found, "differences": gaps}, max(gaps.values()) <= TOLERANCE


def compare_memory(folder: Path, config: Path) -> tuple[dict[str, Any], bool]:
    """Bytes by case and process; whether the base takes little enough in each of two."""
    from tests.base.tiny import tiny_llama

    found: dict[str, list[dict[str, int]]] = {}
    for case in ("1 process", "2, base in parts"):
        place = folder / f"held-{len(found)}"
        place.mkdir()
        tiny_llama(place)
        found[case] = memory(config, place, *CASES[case])
    (one,), parts = found["1 process"], found["2, base in parts"]
    for kind in one:
        shares = ", ".join(f"{held[kind] / one[kind]:.0%}" for held in parts)
        print(f"{kind:<18} {one[kind] / 1e6:.0f} MB in one process; in each of two {shares}")
    counted = (
        "base",
        "base in a pass",
        "resident",
    )  # afterwards the heap has holes, of the pass and not the base
    return found, all(held[kind] <= SHARE * one[kind] for kind in counted for held in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=["losses", "memory"], help="one of the two")
    parser.add_argument(
        "--case", action="append", choices=[*CASES][1:], help="of the losses, may be repeated"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: bench/out/processes.json")
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.hold:
        config, folder, shard = chosen.hold
        hold(Path(config), Path(folder), shard)
        return 0
    given = argparse.Namespace(**vars(chosen), smoke=False)
    result: dict[str, Any] = {}
    cases = chosen.case or [*CASES][1:]
    before, good = machine(), True
    with tempfile.TemporaryDirectory(prefix="sapwood-processes-") as name:
        config = config_of(Path(name), chosen.steps)
        if chosen.only != "memory":
            result["losses"], good = compare_losses(Path(name), config, chosen.steps, cases)
        if chosen.only != "losses":
            result["memory"], fits = compare_memory(Path(name), config)
            good = good and fits
    report("processes", given, before, result)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
