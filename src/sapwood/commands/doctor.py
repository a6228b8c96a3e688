"""``sapwood doctor``: what this machine is, what is installed, what can be reached, what fits."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sapwood.base.sources import list_models
from sapwood.commands.line.options import importing
from sapwood.machine.memory import available_memory, total_memory
from sapwood.machine.network import Asking, hub_address
from sapwood.machine.system import kernel_file
from sapwood.run.files import to_json
from sapwood.show.figures import size

MODELSCOPE = "https://modelscope.cn"
PACKAGES = ("sapwood", "torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "xllamacpp")


def examine(runs: Path, *, as_json: bool) -> None:
    facts = machine_facts(runs)
    if as_json:
        print(to_json(facts), end="")
        return
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in facts["matrix_rate"].items())
    hubs = ", ".join(f"{name} {'answers' if up else 'does not answer'}" for name, up in facts["hubs"].items())
    free, total = facts["memory_available"] / 1e9, facts["memory_total"] / 1e9
    pulled = ", ".join(facts["pulled"]) or "none pulled yet: sapwood model pull builtin:smollm2"
    rows = [(f"{row['model']} ({size(row['peak'])})", row["fits"]) for row in facts["fits"]]
    fits = ", ".join(text if good else f"not {text}" for text, good in rows)
    cores = ", ".join(
        f"{facts[name]} {name if facts[name] != 1 else name[:-1]}" for name in ("cores", "threads")
    )
    lines = {
        "machine": f"{facts['processor']}, {cores}, {facts['device']}",
        "products": f"{rates}: the base is held in {facts['dtype']}",
        "kernels": facts["kernels"] or "compiled for this processor",
        "memory": f"{free:.1f} of {total:.1f} GB can be had",
        "heap": facts["heap"] or "sapwood's own: no holes between tensors",
        "disk": f"{facts['disk_free'] / 1e9:.0f} GB free for {runs}",
        "fits": f"in {facts['dtype']}, packs of 512, rank 8: {fits}",
        "hubs": hubs,
        "models": pulled,
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
    }
    if facts["fused"] is not None:
        lacks = facts["lacks"]
        lines["fused"] = lacks.get(
            "fused",
            "norms, gated products, rotary positions and the loss by liger-kernel, which was proved here",
        )
        lines["attention"] = lacks.get(
            "attention", "torch's varlen, which was proved here; FlexAttention where rows share a beginning"
        )
    if facts["notes"]:
        lines["GPU"] = "; ".join(facts["notes"])
    print("\n".join(f"{word:<10} {text}" for word, text in lines.items()))


def machine_facts(runs: Path) -> dict[str, Any]:
    """Measured in about a second, on a machine that isn't known yet. The hubs are asked meanwhile, also while
    torch is imported."""
    hubs = {"Hugging Face": hub_address(), "ModelScope": os.environ.get("MODELSCOPE_ENDPOINT", MODELSCOPE)}
    asking = Asking(hubs)
    with importing():
        from sapwood.compute.attention.varlen import why_not as why_not_varlen
        from sapwood.compute.fused import why_not_fused
        from sapwood.compute.lacking import lacking
        from sapwood.machine.device import device_for, told
        from sapwood.machine.measure import machine_facts as measured_facts
        from sapwood.machine.measure import torch_dtype
        from sapwood.native.build import why_not
        from sapwood.native.heap import why_no_heap
        from sapwood.plan.memory import what_fits

    device = device_for("auto")
    rates = measured_facts(device)
    existing = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    memory = available_memory()
    name, lacks = rates["dtype"], lacking(device)
    plans = what_fits(name, torch_dtype(name).itemsize, device)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": rates.get("threads", os.cpu_count()),
        "device": rates["device"],
        "capability": rates.get("capability"),
        "matrix_rate": rates.get("gflops", {}),
        "kernels": why_not(),
        "heap": why_no_heap(),
        "fused": None if device.is_cpu else why_not_fused(device),
        "varlen": why_not_varlen(device),
        "lacks": lacks,
        "dtype": name,
        "notes": [*told(device), *(text for about, text in lacks.items() if about in ("bf16", "bits"))],
        "memory_total": total_memory(),
        "memory_available": memory,
        "disk_free": shutil.disk_usage(existing).free,
        "fits": [{"model": model, **plan.to_json()} for model, plan in plans.items()],
        "hubs": asking.answers(),
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
    named = (line for line in kernel_file("/proc/cpuinfo") if line.startswith("model name"))
    return next(named, "").partition(":")[2].strip() or platform.processor() or platform.machine()
