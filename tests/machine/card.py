"""``make gpu``: all that is to be shown on a card. Without one, what of it can be done here, on the CPU and
on pretended cards; at the end it is said what was done, and what only a card can show."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/machine/test_cards.py", "tests/machine/test_devices.py", "tests/machine/test_measure.py",
    "tests/machine/test_extras.py", "tests/plan/test_cards.py", "tests/compute/test_flex.py",
    "tests/compute/test_varlen.py", "tests/compute/test_fused.py", "tests/compute/test_recompute.py",
    "tests/compute/test_lacking.py", "tests/machine/test_card_exports.py",
)  # fmt: skip
REAL = ("-m", "pytest", "-m", "gpu")


@dataclass(frozen=True, slots=True)
class Part:
    """arguments: of Python. card: does it need one?"""

    name: str
    arguments: Sequence[str]
    card: bool = False


PARTS = (
    Part("the tests of devices on the CPU, and runs on pretended cards",
         ("-m", "pytest", "-m", "not gpu", "-q", "-rs", *TESTS)),
    Part("the comparison with the Trainer, in its smoke form", ("bench/gpu.py", "--smoke")),
    Part("the tests on a card", (*REAL, "-rs"), card=True),
    Part("the comparison with the Trainer", ("bench/gpu.py",), card=True),
)  # fmt: skip


def has_card() -> bool:
    from sapwood.machine.device import maybe_gpu

    return maybe_gpu()


def only_on_a_card() -> list[str]:
    """The tests that need one, with how many cases each has: ``FILE::NAME (CASES)``."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    named = [str(path) for path in tests if "gpu" in path.read_text(encoding="utf-8")]
    command = [sys.executable, *REAL, "--collect-only", "-q", *named]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = Counter(line.partition("[")[0] for line in found.splitlines() if "::" in line)
    return [f"{name} ({cases})" for name, cases in names.items()]


def run(parts: Sequence[Part], card: bool) -> tuple[list[str], list[str]]:
    """Each part that is for this machine, one after the other. Returns what was done, a line each, and the
    names of those that failed."""
    done: list[str] = []
    failed: list[str] = []
    for part in parts:
        if part.card and not card:
            continue
        print(f"--- {part.name}", flush=True)
        tick = time.monotonic()
        code = subprocess.run([sys.executable, *part.arguments], cwd=ROOT, check=False).returncode
        verdict = "done" if code == 0 else f"FAILED, exit code {code}"
        done.append(f"{part.name}: {verdict}, {time.monotonic() - tick:.0f} s")
        failed += [part.name] if code else []
    return done, failed


def main(parts: Sequence[Part] = PARTS) -> int:
    card = has_card()
    done, failed = run(parts, card)
    print("\nOn a card:" if card else "\nThere is no card here. Done without one:")
    print("\n".join(f"  {line}" for line in done))
    if not card:
        print("Not done, since only a card can show it:")
        left = [part.name for part in parts if part.card and part.arguments[: len(REAL)] != REAL]
        print("\n".join(f"  {line}" for line in [*left, *only_on_a_card()]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
