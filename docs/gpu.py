"""Write the table of docs/gpu.md and of its Chinese twin: ``python docs/gpu.py``.

Each cell is the plan that a run would make; `tests/plan/test_cards.py` keeps the pages as this script writes
them.
"""

from __future__ import annotations

import re
from pathlib import Path

from sapwood.plan.cards import Unplugged, on_card
from sapwood.plan.shapes import Shapes, usual_shapes

HERE = Path(__file__).resolve().parent
RANK = 16
CARDS = (8, 12, 16, 24)  # GB
LENGTHS = (512, 1024, 2048, 4096, 8192)  # tokens
MODELS = {
    "Llama 2 7B": usual_shapes(32, 4096, 11_008, 32, 32, 32_000, tied=False),
    "Qwen2.5 7B": usual_shapes(28, 3584, 18_944, 28, 4, 152_064, tied=False),
}
HEADS = {"gpu.md": ("model", "tokens"), "gpu.zh-CN.md": ("模型", "token")}
TABLE = re.compile(r"(<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cell(shapes: Shapes, tokens: int, gigabytes: int) -> str:
    """``6.9 GB, 12/32``: the peak, and the layers that are computed twice; ``+ 1.9 GB RAM`` for their inputs;
    a dash if nothing fits."""
    plan = on_card(shapes, tokens, RANK, Unplugged.of(gigabytes))
    ram = f" + {plan.offloaded / 1e9:.1f} GB RAM" if plan.offloaded else ""
    return f"{plan.peak / 1e9:.1f} GB, {plan.recomputed}/{plan.layers}{ram}" if plan.fits else "–"


def table(model: str, tokens: str) -> str:
    lines = [f"| {model} | {tokens} | " + " | ".join(f"{card} GB" for card in CARDS) + " |"]
    lines.append("|---|---|" + "---|" * len(CARDS))
    for name, shapes in MODELS.items():
        for length in LENGTHS:
            cells = " | ".join(cell(shapes, length, card) for card in CARDS)
            lines.append(f"| {name} | {length:,} | {cells} |")
    return "\n".join(lines) + "\n"


def filled(page: str, words: tuple[str, str]) -> str:
    return TABLE.sub(lambda found: f"{found[1]}\n{table(*words)}\n", page)


def pages() -> dict[str, str]:
    return {name: filled((HERE / name).read_text(encoding="utf-8"), words) for name, words in HEADS.items()}


if __name__ == "__main__":
    for name, page in pages().items():
        (HERE / name).write_text(page, encoding="utf-8")
