"""How long a hostile or broken model file takes to be refused: every case of `tests/model/hostile.py`.

One process opens all of them, each a few times; the figure is the best time of each, because load from others
only adds. Exit code 1 where one takes longer than ``--within`` seconds, or isn't refused.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import Result, arguments, machine, report, table


def main() -> int:
    parser = arguments(__doc__, rows=0)
    parser.add_argument("--within", type=float, default=1.0, help="seconds (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="times that each is opened (%(default)s)")
    given = parser.parse_args()
    facts = machine()
    rows = measure(1 if given.smoke else given.turns, 10 if given.smoke else 1)
    families: dict[str, list[Result]] = {}
    for row in rows:
        families.setdefault(row["name"].split(":")[0], []).append(row)
    header = ["kind", "cases", "median s", "slowest s", "slowest"]
    found = [(kind, group, max(group, key=lambda row: row["seconds"])) for kind, group in families.items()]
    print(table(header, [[kind, len(group), statistics.median(row["seconds"] for row in group),
                          worst["seconds"], worst["name"]] for kind, group, worst in found]))  # fmt: skip
    report("hostile", given, facts, {"rows": rows})
    late = [row["name"] for row in rows if row["seconds"] > given.within and not given.smoke]
    opened = [row["name"] for row in rows if not row["refused"]]
    for name in [*late, *opened]:
        print(f"FAILED {name}", file=sys.stderr)
    return int(bool(late or opened))


def measure(turns: int, every: int) -> list[Result]:
    """The best of ``turns`` times of every ``every``-th case."""
    from tests.base.hostile import FOLDER, GGUF, SAFETENSORS, lay_out

    from sapwood.base.inspect import inspect_base
    from sapwood.base.load import load_base
    from sapwood.config.sections import BaseConfig
    from sapwood.errors import SapwoodError

    def seconds(path: Path) -> tuple[float, str]:
        config = BaseConfig(model=str(path), storage="fp32")
        tick = time.perf_counter()
        try:
            load_base(inspect_base(config), config)
        except SapwoodError as error:
            return time.perf_counter() - tick, str(error)
        return time.perf_counter() - tick, ""

    rows: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sapwood-bench-") as place:
        good = Path(place) / "good"
        lay_out(good)
        for name in ("model", "model.gguf"):
            seconds(good / name)  # imports
        for name, (make, _) in list({**GGUF, **SAFETENSORS, **FOLDER}.items())[::every]:
            folder = Path(place) / "case"
            shutil.copytree(good, folder)
            make(folder)
            path = folder / ("model.gguf" if name.startswith("gguf") else "model")
            times = [seconds(path) for _ in range(turns)]
            rows.append({"name": name, "seconds": min(t for t, _ in times), "refused": times[0][1]})
            shutil.rmtree(folder)
    return rows


if __name__ == "__main__":
    sys.exit(main())
