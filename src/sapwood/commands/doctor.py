"""``sapwood doctor``: what this machine is, what is installed, what can be reached, what fits."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sapwood.model.machine import available_memory, fastest_dtype, total_memory
from sapwood.model.sources import list_models
from sapwood.track.files import to_json

PACKAGES = ("sapwood", "torch", "transformers", "peft", "tokenizers", "safetensors", "gguf")
BYTES_PER_PARAMETER = 2.6  # bf16 weights, their embedding, and the working memory of a small pack
FIXED_BYTES = 0.9e9  # Python, torch and transformers themselves, and one layer's worth of everything


def examine(runs: Path, *, as_json: bool) -> None:
    facts = machine_facts(runs)
    if as_json:
        print(to_json(facts), end="")
        return
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in facts["matrix_rate"].items())
    hubs = ", ".join(f"{name} {'answers' if up else 'does not answer'}" for name, up in facts["hubs"].items())
    free, total = facts["memory_available"] / 1e9, facts["memory_total"] / 1e9
    pulled = ", ".join(facts["pulled"]) or "none pulled yet: sapwood model pull builtin:smollm2"
    fits = f"{facts['fits_parameters'] / 1e9:.1f} billion parameters in {facts['dtype']}"
    cores = f"{facts['cores']} cores, {facts['threads']} threads"
    lines = {
        "machine": f"{facts['processor']}, {cores}, {facts['device']}",
        "products": f"{rates}: the base is held in {facts['dtype']}",
        "memory": f"{free:.1f} of {total:.1f} GB can be had",
        "disk": f"{facts['disk_free'] / 1e9:.0f} GB free for {runs}",
        "fits": f"a base of about {fits}",
        "hubs": hubs,
        "models": pulled,
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
    }
    print("\n".join(f"{word:<10} {text}" for word, text in lines.items()))


def machine_facts(runs: Path) -> dict[str, Any]:
    """Measured in about a second; nothing is written."""
    dtype, rates = fastest_dtype()
    existing = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    memory = available_memory()
    name = {"torch.bfloat16": "bf16", "torch.float32": "fp32"}[str(dtype)]
    per_parameter = BYTES_PER_PARAMETER * (2 if name == "fp32" else 1)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": rates.get("threads", os.cpu_count()),
        "device": rates["device"],
        "capability": rates.get("capability"),
        "matrix_rate": rates.get("gflops", {}),
        "dtype": name,
        "memory_total": total_memory(),
        "memory_available": memory,
        "disk_free": shutil.disk_usage(existing).free,
        "fits_parameters": max(0.0, (memory - FIXED_BYTES) / per_parameter),
        "hubs": {"Hugging Face": _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))},
        "pulled": [m.name for m in list_models() if m.path is not None],
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _answers(endpoint: str) -> bool:
    """Can a connection be made? Nothing is asked for."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False
