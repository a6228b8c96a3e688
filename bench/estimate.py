"""How near the estimate of a run's time comes: by the machine's rates alone, by one pass before the first
step, and after three steps, against the truth.

    python bench/estimate.py                    both cases, some minutes
    python bench/estimate.py --only idle        one of them

Each case is a run by `sapwood train`'s own code in a process of its own: ``idle`` on the machine as it is,
``beside`` with a second program that computes on one core until step ``--ends-after`` is done. Exit code 1
if the last estimate before the first step (idle) or after three steps (beside) is further off than
``--within``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import Any

from common import (
    BATCH,
    TUTORIAL_SYSTEM,
    Result,
    add_data,
    arguments,
    default_data,
    failures,
    machine,
    report,
    scratch,
    table,
    whole_steps,
)

CASES = ("idle", "beside")
GOAL = {"idle": "pass", "beside": "three_steps"}  # which estimate is held against the truth
SPIN = "while True: pass"
LONGEST = 420.0  # seconds of one case


def main() -> int:
    parser = arguments(__doc__, rows=96)
    add_data(parser)
    parser.add_argument("--only", choices=CASES, help="one case instead of both")
    parser.add_argument("--ends-after", type=int, default=1, help="step, of the second program (%(default)s)")
    parser.add_argument("--within", type=float, default=0.25, help="share it may be off (%(default)s)")
    parser.add_argument("--one", choices=CASES, help=SUPPRESS)
    given = parser.parse_args()
    if given.smoke:
        given.rows = 8 * BATCH
    if given.one:
        print(json.dumps(measure(given, given.one)))
        return 0
    facts = machine()
    rows = [_fresh(given, case) for case in ([given.only] if given.only else CASES)]
    header = ["case", "by rates", "by one pass", "after three steps", "last said", "truth s", "rates / truth",
              "pass / truth", "three steps / truth", "load then", "threads", "format"]  # fmt: skip
    keys = ["name", "rates", "pass", "three_steps", "last", "truth", "rates_ratio", "pass_ratio",
            "three_steps_ratio", "load", "threads", "dtype"]  # fmt: skip
    print(table(header, [[row.get(key) for key in keys] for row in rows if "error" not in row]))
    report("estimate", given, facts, {"rows": rows, "within": given.within})
    return failures(rows) or int(not given.smoke and any(_off(row) > given.within for row in rows))


def _off(row: Result) -> float:
    return abs(row[f"{GOAL[row['name']]}_ratio"] - 1)


def _fresh(given: Namespace, case: str) -> Result:
    """What a new interpreter finds: it has measured nothing yet, and its threads are those of the machine."""
    if given.smoke:
        return measure(given, case)
    told = ["--rows", given.rows, "--model", given.model, "--ends-after", given.ends_after, "--one", case]
    told += ["--data", given.data] if given.data else []
    print(f"{case} …", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *map(str, told)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return {"name": case, "error": f"more than {LONGEST:.0f} s: fewer --rows"}
    if done.returncode:
        return {"name": case, "error": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


# --- the measured side ------------------------------------------------------------------------------------


def measure(given: Namespace, case: str) -> Result:
    """Train; what was said of its time, and what it took: steps and evaluations, as the estimate means."""
    from sapwood.config.file import load_config
    from sapwood.pipeline import train_study
    from sapwood.prepare.study import study_config
    from sapwood.types import Evaluated, Event, Stepped

    seconds: list[float] = []
    done = [0]
    told: list[tuple[int, str]] = []  # steps done, a line
    with scratch() as folder:
        other = subprocess.Popen([sys.executable, "-c", SPIN]) if case == "beside" else None

        def watch(event: Event) -> None:
            if isinstance(event, Stepped | Evaluated):
                seconds.append(event.seconds)
            if isinstance(event, Stepped):
                done.append(event.step)
            if other is not None and isinstance(event, Stepped) and event.step == given.ends_after:
                other.kill()

        def hear(line: str) -> None:
            told.append((done[-1], line))

        try:
            config = load_config(None, _settings(given, Path(folder)))
            adapter = train_study(config, study_config(config), watch, tell=hear)
        finally:
            if other is not None:
                other.kill()
                other.wait()
        about = json.loads((adapter.path.parent / "run.json").read_text(encoding="utf-8"))
    facts, truth = about["facts"], sum(seconds)
    said = [(step, _seconds(line)) for step, line in told if line.startswith("time ")]

    def by(steps: int) -> float:
        return [told for step, told in said if step <= steps][-1]

    found: Result = {"name": case, "rates": facts["estimate"]["seconds"], "pass": by(0), "three_steps": by(3),
                     "last": said[-1][1], "truth": truth, "told": told, "seconds": seconds}  # fmt: skip
    found |= {f"{key}_ratio": found[key] / truth for key in ("rates", "pass", "three_steps", "last")}
    measured = {key: facts["machine"].get(key) for key in ("load", "threads", "dtype", "products", "gflops")}
    return found | measured | {"changed_threads": about.get("threads")}


def _settings(given: Namespace, folder: Path) -> list[str]:
    data = "builtin:nursery" if given.smoke else given.data or default_data()
    words = [f"data.train={data}", "data.eval=32", "eval.samples=0", f"save.dir={folder}", "pack.length=1024",
             f"train.batch_size={BATCH}", f"train.max_steps={whole_steps(given.rows)}"]  # fmt: skip
    if given.smoke:
        from tests.base.tiny import tiny_llama

        return [*words, f"base.model={tiny_llama(folder)}"]
    return [*words, f"base.model={given.model}", f"data.system={TUTORIAL_SYSTEM}"]


def _seconds(line: str) -> float:
    """Of a line that says "about 8m46s"."""
    found: Any = re.search(r"about (?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?", line)
    return sum(
        float(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
