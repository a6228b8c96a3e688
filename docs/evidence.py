"""Write docs/evidence.md and its Chinese twin: ``python docs/evidence.py``.

Claims and commands stand in docs/evidence/claims.yaml; figures are read from the JSON files beside it, which
the scripts of bench/ wrote. `tests/test_readme.py` keeps the pages as this script writes them.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "evidence"

EN = """# Evidence

[中文](evidence.zh-CN.md)

Each claim has a command that shows it. Ratios are of runs that took turns in one call, on one machine. A
claim without a machine doesn't depend on one: its command shows the same figure anywhere.

| claim | figure | machine | command |
|---|---|---|---|
"""
ZH = """# 证据

[English](evidence.md)

每个说法都有一条命令可以验证。比值来自同一台机器、同一次调用中轮流进行的测量。没有写机器的与机器无关：在哪里运行命令，得到的都一样。

| 说法 | 数值 | 机器 | 命令 |
|---|---|---|---|
"""


class _Units(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "GB":
            return f"{value / 1e9:.2f} GB"
        return super().format_field(value, format_spec)


def claims() -> list[dict[str, str]]:
    return yaml.safe_load((RESULTS / "claims.yaml").read_text(encoding="utf-8"))


def measured(claim: dict[str, str], language: str) -> tuple[str, str]:
    """The figure as its script measured it, and the machine."""
    found = json.loads((RESULTS / f"{claim['file']}.json").read_text(encoding="utf-8"))
    facts = found["machine"]
    figure = claim.get(f"figure_{language}", claim["figure"])
    cores = " 核，" if language == "zh" else " cores, "
    return _Units().format(figure, **found), f"{facts['cores']}{cores}{facts['cpu']}"


def row(claim: dict[str, str], language: str) -> str:
    held = claim.get(f"held_{language}", claim.get("held"))
    figure, machine = (held, "") if held is not None else measured(claim, language)
    return f"| {claim[language]} | {figure} | {machine} | `{claim['command']}` |"


def pages() -> dict[str, str]:
    return {
        name: head + "\n".join(row(claim, language) for claim in claims()) + "\n"
        for name, head, language in (("evidence.md", EN, "en"), ("evidence.zh-CN.md", ZH, "zh"))
    }


if __name__ == "__main__":
    for name, page in pages().items():
        (HERE / name).write_text(page, encoding="utf-8")
