"""What the scripts share: jobs in fresh processes, the machine's facts, a table, a JSON file.

Nothing here imports torch: the process that hands out the work stays small and idle while others measure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]  # this tree's sapwood and tests, whatever is installed
OUT = ROOT / "bench" / "out"
TUTORIAL_SYSTEM = "现在你要扮演皇帝身边的女人--甄嬛"  # of the Qwen1.5 tutorial
BATCH = 16  # examples in one optimizer step, whoever trains
BUSY = 0.3  # load that others put on the machine, as a share of its cores, above which figures are doubtful
PACKAGES = ("sapwood", "torch", "transformers", "peft", "bitsandbytes", "gguf", "accelerate", "trl")

Result = dict[str, Any]

# A narrower processor than this one, for every library that chooses by the processor; children inherit it.
PROCESSORS = {
    "avx2": ("x86-64-v3", "avx2", "AVX2", "AVX2"),
    "avx-vnni": ("alderlake", "avx2", "AVX2_VNNI", "AVX2"),
    "avx512": ("x86-64-v4", "avx512", "AVX512_CORE_VNNI", "AVX512"),
}
SWITCHES = ("SAPWOOD_MARCH", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
FLAGS = {"avx2": "avx2", "avx-vnni": "avx_vnni", "avx512": "avx512_vnni"}  # of /proc/cpuinfo


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, or the preparation of its examples.

    Attributes:
        name: how tables and ``--only`` call it.
        who: which function of `workers` does it.
        note: the configuration in words.
        storage: number format of the frozen base; ``auto`` is sapwood's own choice.
        micro: examples in one forward pass of a peer; it accumulates to ``batch`` of them.
        checkpointing: recompute activations in the backward pass.
        pack_length: tokens of a pack, ours and TRL's.
        packing, padding_free: TRL's ways to go without padding.
        autocast: run a peer under bf16 autocast, whatever its weights are held in.
        bf16_adapter: hold a peer's adapter in bf16 too (PEFT's own default is fp32).
        eval_rows: rows that `quality` holds out.
        fused: let a peer compile the model with torch.compile.
        profiled: tell attention's share of our steps instead of their time.
        rank, samples, recomputed: of `memory`: the adapter's, sample answers, layers computed twice.
        device: ``base.device_map`` of ours, and where a peer computes.
        examples: name of the prepared file; ``rows`` and the sizes below say what is in it.
    """

    name: str
    who: Literal["prepare", "ours", "trainer", "trl", "trainer-parity", "rate", "memory", "quality"]
    note: str = ""
    model: str = "builtin:smollm2"
    folder: str = ""
    examples: str = "examples"
    storage: str = "auto"
    steps: int = 2
    batch: int = BATCH
    micro: int = 1
    checkpointing: bool = False
    dropout: float = 0.1
    pack_length: int = 512
    packing: bool = False
    padding_free: bool = False
    autocast: bool = False
    bf16_adapter: bool = False
    fused: bool = False
    profiled: bool = False
    eval_rows: int = 40
    data: str = ""
    rows: int = 0
    system: str | None = None
    sizes: tuple[int, ...] = field(default=())
    rank: int = 8
    samples: int = 0
    recomputed: int = 0
    device: str = "cpu"


# --- running ----------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Generator[str]:
    """A folder for prepared examples, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as folder:
        yield folder


def run_all(jobs: Sequence[Job], folder: str, *, smoke: bool = False) -> list[Result]:
    """The jobs one after the other, each in a process of its own: its peak memory is then its own, and no
    thread pool or allocator is warm for the second only. Ends early when examples can't be prepared.

    ``smoke`` runs all of them in this process on a tiny random model, which shows only that they work.
    """
    jobs = [replace(job, folder=folder, model="tiny" if smoke else job.model) for job in jobs]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": folder,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if smoke:
        os.environ.update(environment)  # before those that read it are imported
    results: list[Result] = []
    for number, job in enumerate(jobs, start=1):
        print(f"[{number}/{len(jobs)}] {job.name} …", end=" ", file=sys.stderr, flush=True)
        found = _here(job) if smoke else _fresh(job, os.environ | environment)
        print(found.get("error") or f"{found['wall']:.0f} s", file=sys.stderr, flush=True)
        results.append(found)
        if job.who == "prepare" and "error" in found:
            break
    return results


def _here(job: Job) -> Result:
    from workers import work_off

    return work_off(job)


def _fresh(job: Job, environment: Mapping[str, str]) -> Result:
    """What a new interpreter finds. One that was killed, for example for want of memory, is a result with
    ``error``."""
    with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as temporary:
        todo, done = Path(temporary) / "job.json", Path(temporary) / "result.json"
        todo.write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, str(ROOT / "bench" / "workers.py"), str(todo), str(done)]
        # tied to this process: a job that survives it would compute beside the next one
        command = ["setpriv", "--pdeathsig", "TERM", *command] if shutil.which("setpriv") else command
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.is_file():
            return json.loads(done.read_text(encoding="utf-8"))
    last = (ended.stderr.strip().splitlines() or [""])[-1]
    return {"name": job.name, "who": job.who, "error": f"exit code {ended.returncode}: {last[:300]}"}


def speeds(result: Result) -> dict[str, float]:
    """examples and tokens a second, after the first step and with it. Tokens are those of the examples,
    whatever was computed for them."""
    seconds, examples, tokens = result["seconds"], result["examples"], result["tokens"]
    late = slice(1, None) if len(seconds) > 1 else slice(None)
    return {
        "examples_per_s": sum(examples[late]) / sum(seconds[late]),
        "examples_per_s_all": sum(examples) / sum(seconds),
        "tokens_per_s": sum(tokens[late]) / sum(seconds[late]),
    }


def summarise(results: Sequence[Result]) -> list[Result]:
    """The turns of each name as one row: the median speed, the highest peak, and every turn beside them."""
    rows: list[Result] = []
    for name in dict.fromkeys(result["name"] for result in results):
        turns = [result for result in results if result["name"] == name]
        good = [turn for turn in turns if "error" not in turn]
        if not good:
            rows.append({"name": name, "error": turns[0]["error"]})
            continue
        found = [speeds(turn) for turn in good]
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        peak = max(turn["peak_bytes"] for turn in good)
        rows.append({**good[0], **middle, "peak_bytes": peak, "turns": turns})
    return rows


def failures(rows: Sequence[Result]) -> int:
    """The exit code for a script that has these rows."""
    for row in rows:
        if "error" in row:
            print(f"FAILED {row['name']}: {row['error']}", file=sys.stderr)
    return int(any("error" in row for row in rows))


# --- arguments --------------------------------------------------------------------------------------------


def arguments(text: str | None, *, rows: int) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=rows, help=f"examples, whole steps of {BATCH} (%(default)s)"
    )
    parser.add_argument("--model", default="builtin:smollm2", help="the base that all train (%(default)s)")
    parser.add_argument(
        "--isa", choices=PROCESSORS, action=Narrowed, help="as on a processor that has these instructions"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny random model: shows only that it runs")
    parser.add_argument("--out", type=Path, help="the JSON file (bench/out/SCRIPT.json)")
    return parser


class Narrowed(argparse.Action):
    """``--isa``: set before torch is imported."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, value: Any, option: Any = None
    ) -> None:
        if FLAGS[value] not in processor_flags():
            parser.error(f"--isa {value}: this processor has no {FLAGS[value]}")
        os.environ.update(zip(SWITCHES, PROCESSORS[value], strict=True))
        setattr(namespace, self.dest, value)


def processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


HOPELESS = 8  # times slower than fp32: eight minutes hold no such job


def without_hopeless(formats: Iterable[str]) -> list[str]:
    """``formats`` but those in which this processor's products are a loop of the reference kind; says so."""
    wanted = list(dict.fromkeys(formats))
    code = "from sapwood.machine.measure import product_rates as rates; print(*rates('bf16').values())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    bf16, fp32 = map(float, told.split())
    if HOPELESS * bf16 > fp32 or "bf16" not in wanted:
        return wanted
    print(f"left out: bf16 products, {bf16:.0f} GFLOP/s here beside {fp32:.0f} in fp32")
    return [name for name in wanted if name != "bf16"]


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="rows to train on (the shared huanhuan.json, else builtin:nursery)")


def default_data() -> str:
    """The rows of the tutorials where the shared folder beside the project has them, else packaged ones."""
    shared = Path(os.environ.get("SAPWOOD_SHARED", ROOT.parent / "shared"))
    path = shared / "data" / "huanhuan.json"
    return str(path) if path.is_file() else "builtin:nursery"


def whole_steps(rows: int) -> int:
    """Optimizer steps in ``rows`` examples, at least one."""
    return max(1, rows // BATCH)


def rows_job(given: argparse.Namespace, rows: int | None = None) -> Job:
    """Examples of the tutorial's job: the first rows under the base's own template."""
    data = "builtin:nursery" if given.smoke else given.data or default_data()
    count = whole_steps(given.rows if rows is None else rows) * BATCH
    return Job(
        "prepare",
        "prepare",
        model=given.model,
        data=data,
        rows=count,
        system=None if "gemma" in given.model else TUTORIAL_SYSTEM,  # Gemma's template knows no system role
        pack_length=1024,
    )


# --- facts ------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures depend on, and the load at this moment."""
    import psutil

    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        print(f"note: the machine is busy (load {load:.1f}): only ratios mean anything", file=sys.stderr)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_before": round(load, 2),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found | {"commit": commit.stdout.strip() or "unknown"}


# --- results ----------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three significant digits, right aligned."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(script: str, given: argparse.Namespace, facts: dict[str, Any], payload: dict[str, Any]) -> Path:
    """Print where it was measured, and write everything as JSON. ``facts``: of `machine`, taken before."""
    facts = facts | {"load_after": round(os.getloadavg()[0], 2)}
    known = versions()
    print(f"\n{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; Python {facts['python']}, "
          + ", ".join(f"{name} {number}" for name, number in known.items()))  # fmt: skip
    settings = {key: value for key, value in vars(given).items() if key not in {"out", "data"}}
    if given.smoke:
        print("a smoke run: these figures mean nothing")
    path = given.out or OUT / f"{script}{'.smoke' if given.smoke else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "script": script,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "smoke": given.smoke,
        "settings": settings,
        "machine": facts,
        "versions": known,
        **payload,
    }
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path
