"""Preparing data: sapwood reads, renders, proves each row and plans; `datasets.map` renders and tokenises.

    python bench/prepare.py                  # 100,000 rows, fewer where the machine is slow
    python bench/prepare.py --rows 1000000   # the whole figure, however long it takes

The rows are those of ../shared/data/huanhuan.json with a number worked into each, so that no two are alike.
Both sides use the Qwen1.5 tokenizer and a process for each core (``num_proc`` of the peer), in turns. Without
``--rows`` the count is chosen by a first measurement, so that the command ends within eight minutes; what it
leaves out is said at once. The figures go to bench/out/prepare.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import machine

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "现在你要扮演皇帝身边的女人--甄嬛"
LENGTH = 1024
SIDES = ("sapwood", "sapwood again", "datasets.map")
FULL, USUAL, LEAST = 1_000_000, 100_000, 5_000  # rows
SECONDS = 360.0  # that both sides may take together where nobody names a count


def write_rows(path: Path, count: int) -> None:
    """``count`` distinct alpaca rows as JSONL."""
    shared = Path(os.environ.get("SAPWOOD_SHARED", ROOT.parent / "shared"))
    source = shared / "data" / "huanhuan.json"
    if not source.is_file():
        sys.exit(f"{source} is missing: set SAPWOOD_SHARED to the folder that holds data/huanhuan.json")
    rows = json.loads(source.read_text(encoding="utf-8"))
    with path.open("w", encoding="utf-8") as out:
        for i in range(count):
            row = rows[i % len(rows)]
            lap = i // len(rows)
            instruction = f"{row['instruction']}（{lap}）" if lap else row["instruction"]
            changed = {**row, "instruction": instruction, "output": f"{row['output']}{i}"}
            out.write(json.dumps(changed, ensure_ascii=False) + "\n")


def by_sapwood(path: Path, profile: bool) -> dict[str, Any]:
    """Everything that a run does before its first step; the second start finds it in the cache."""
    from tests.template.real_tokenizers import real_tokenizer

    from sapwood.config.file import parse_config
    from sapwood.pack.plan import plan_packs
    from sapwood.prepare.study import prepared_study
    from sapwood.template.render import Renderer

    renderer = Renderer(real_tokenizer("qwen1_5"))
    config = parse_config(
        {"data": {"train": str(path), "eval": 0, "system": SYSTEM}, "pack": {"length": LENGTH}}
    )
    profiler = cProfile.Profile()
    start = time.perf_counter()
    if profile:
        profiler.enable()
    found = prepared_study(
        config, renderer, vocab_rows=151_936, context=32_768, cache=path.parent / "prepared"
    )
    prepared = time.perf_counter() - start
    examples = found.train
    for at in range(0, len(examples), 16):  # as the loop does: the packs of each optimizer step
        plan_packs([example.ids for example in examples[at : at + 16]], LENGTH)
    seconds = time.perf_counter() - start
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(28)
    tokens = sum(len(example) for example in examples)
    return {"seconds": seconds, "prepared": prepared, "rows": len(examples), "tokens": tokens}


def by_datasets(path: Path) -> dict[str, Any]:
    """What the tutorials do through `Dataset.map`, here in batches and as many processes as cores."""
    import datasets
    from tests.template.real_tokenizers import real_tokenizer

    from sapwood.machine.system import cores

    datasets.disable_progress_bars()
    tokenizer = real_tokenizer("qwen1_5")

    def process(rows: dict[str, list[str]]) -> dict[str, Any]:
        out: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for question, more, answer in zip(rows["instruction"], rows["input"], rows["output"], strict=True):
            prompt = "\n".join(filter(None, (question, more)))
            chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            before = tokenizer(text, add_special_tokens=False)["input_ids"]
            after = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
            out["input_ids"].append(before + after)
            out["labels"].append([-100] * len(before) + after)
        return out

    start = time.perf_counter()
    rows = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(path.parent / "hf")
    )
    mapped = rows.map(process, batched=True, num_proc=cores(), remove_columns=rows.column_names)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": len(mapped)}


def measure(side: str, path: Path, profile: bool) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other; peak memory of all its processes."""
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--path",
        str(path),
        *(["--profile"] if profile else []),
    ]
    env = {
        **os.environ,
        "HF_HOME": str(path.parent / "hf"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TOKENIZERS_PARALLELISM": "false" if side == "datasets.map" else "true",
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    peak = _Peak(process.pid)
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{side} failed with code {process.returncode}")
    found = json.loads(out.splitlines()[-1])
    return {**found, "peak_bytes": peak.stop(), "rows_per_second": found["rows"] / found["seconds"]}


class _Peak:
    """The largest sum of the resident sets of a process and its children, seen ten times a second."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._gone = psutil.Error
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self._most = max(self._most, sum(one.memory_info().rss for one in family))
            except self._gone:
                continue

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._most


def choose_rows(rounds: int) -> int:
    """As many rows as both sides finish in `SECONDS`, by what a few of them take."""
    with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as folder:
        write_rows(path := Path(folder) / "rows.jsonl", LEAST)
        seconds = sum(measure(side, path, False)["seconds"] for side in (SIDES[0], SIDES[2]))
    # Starts are part of the few rows' time, so this is less than would be possible.
    fitting = int(SECONDS / rounds / seconds * LEAST)
    rows = max(LEAST, min(USUAL, fitting))
    print(f"{rows:,} rows of {FULL:,}: --rows {FULL} measures the whole figure", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="by default as many as end within eight minutes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="profile sapwood's side to stderr")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        found = by_datasets(args.path) if args.side == SIDES[2] else by_sapwood(args.path, args.profile)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**found, "own_peak_bytes": peak}))
        return
    rows = args.rows or choose_rows(args.rounds)
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as folder:
            write_rows(path := Path(folder) / "rows.jsonl", rows)
            for side in SIDES:
                results[side].append(measure(side, path, args.profile and number == 0 and side == SIDES[0]))
                one = results[side][-1]
                print(
                    f"round {number + 1}  {side:14} {one['seconds']:8.1f} s  "
                    f"{one['rows_per_second']:9,.0f} rows/s  peak {one['peak_bytes'] / 1e9:5.2f} GB"
                    + (f"  (prepared after {one['prepared']:.2f} s)" if "prepared" in one else "")
                )
    best = {side: max(one["rows_per_second"] for one in found) for side, found in results.items()}
    ratio = {side: best[side] / best["datasets.map"] for side in SIDES}
    print("ratio to datasets.map: " + ", ".join(f"{s} {r:.2f}" for s, r in ratio.items()))
    facts = {
        "rows": rows,
        "results": results,
        "ratio": ratio,
        "machine": machine(),
        "versions": {name: version(name) for name in ("datasets", "tokenizers", "transformers", "numpy")},
        "python": sys.version.split()[0],
    }
    (out := ROOT / "bench" / "out").mkdir(parents=True, exist_ok=True)
    (out / "prepare.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
