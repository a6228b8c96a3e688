"""What was measured of this machine while it was idle, and what was compiled for its GPU, kept in the user's
cache for later starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

from sapwood.machine.load import BUSY, load_now
from sapwood.machine.system import cores, kernel_file

VERSION = 1  # raise it when the same measurement would be made otherwise
SETTINGS = (
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
)  # fmt: skip
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
TUNED = "TRITON_CACHE_AUTOTUNING"  # 1: Triton keeps the fastest variant of a kernel, and not only kernels
PASS = "first-pass.json"


def cache_dir() -> Path:
    """The folder for what can be fetched or computed again: ``$SAPWOOD_CACHE``, else the platform's own."""
    if folder := os.environ.get("SAPWOOD_CACHE"):
        return Path(folder).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("sapwood"))


@cache
def remembered() -> dict[str, Any]:
    """Figures by name, to be read and added to. Nothing is remembered while others keep the machine busy: a
    run is told how fast the machine is now."""
    try:
        told = json.loads(_place().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(told) if isinstance(told, dict) and load_now() < BUSY else {}


def remember() -> None:
    """Keep all that is known now. A cache that can't be written is no error."""
    place = _place()
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(remembered()), encoding="utf-8")
        temporary.replace(place)


def _place() -> Path:
    """Named by all that the figures depend on: processor, how much of it there is, torch, its settings."""
    import torch

    wanted = ("model name", "flags", "Features", "CPU part")
    processor = dict.fromkeys(line for line in kernel_file("/proc/cpuinfo") if line.startswith(wanted))
    facts = [
        VERSION, platform.machine(), platform.processor(), *processor, cores(), torch.__version__,
        torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), *map(os.environ.get, SETTINGS),
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(list(map(str, facts))).encode()).hexdigest()[:16]
    return cache_dir() / "measured" / f"{name}.json"


# --- what torch and Triton compile for a GPU, and find by trying variants of it ---------------------------
# A folder for each GPU and torch. By itself torch keeps it where a restart of the machine deletes it. Beside
# it stands how long the first pass of the last run took, which is said before the next.


def kernels_of(gpu: str) -> Path:
    """The folder for this GPU's name and this torch."""
    import torch

    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu} torch {torch.__version__}").strip("-")
    return cache_dir() / "kernels" / name


def keep_kernels(gpu: str) -> None:
    """From now on this process's compilers keep what they make there. What the environment says already
    stays; a cache that can't be written is no error."""
    folder = kernels_of(gpu)
    with contextlib.suppress(OSError):
        for variable, name in FOLDERS.items():
            if variable not in os.environ:
                (folder / name).mkdir(parents=True, exist_ok=True)
                os.environ[variable] = str(folder / name)
        os.environ.setdefault(TUNED, "1")


def first_pass(gpu: str) -> float | None:
    """Seconds that the first pass of the last run there took; None before the first run."""
    try:
        return float(json.loads((kernels_of(gpu) / PASS).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def first_pass_took(gpu: str, seconds: float) -> None:
    file = kernels_of(gpu) / PASS
    temporary = file.with_name(f".{PASS}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
        temporary.replace(file)
