"""The tokens of an example, and which of them are learnt: for a terminal, and as a page.

Learnt tokens are green, and stand in ⟦ ⟧ with ┃ between them, so that the mask shows without colour too.
"""

from __future__ import annotations

import heapq
import html
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sapwood.template.render import Renderer
from sapwood.types import Example

GREEN, DIM, MAGENTA, END = "\x1b[1;32m", "\x1b[2m", "\x1b[35m", "\x1b[0m"
JOINERS = "\u200c\u200d"  # emoji families and Persian words need them, and they do no harm


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, or the few tokens that only together spell a character."""

    ids: tuple[int, ...]
    text: str
    trained: bool
    control: bool


def show(example: Example, renderer: Renderer, *, color: bool) -> str:
    """The example token by token, then a line of facts. With ``color``, ANSI codes are added."""
    out: list[str] = []
    for trained, group in groupby(pieces(example, renderer), key=lambda piece: piece.trained):
        bar = _paint("┃" if trained else "│", DIM, color)
        out.append(_paint("⟦", GREEN, color) if trained else "")
        for i, piece in enumerate(group):
            between = bar if i and not out[-1].endswith("\n") else ""
            out += [between, _painted(piece, color) + "\n" * piece.text.endswith("\n")]
        out.append(_paint("⟧", GREEN, color) if trained else "")
    return "".join(out).rstrip("\n") + "\n" + summary(example, renderer)


def worst_first(examples: Sequence[Example], renderer: Renderer, count: int) -> list[tuple[str, Example]]:
    """The ``count`` most extreme examples of each kind, because mistakes gather there; each with the kind."""
    backend: Any = renderer.tokenizer.backend_tokenizer
    texts = backend.decode_batch([e.ids.tolist() for e in examples], skip_special_tokens=False)
    density = {id(e): len(text) / len(e) for e, text in zip(examples, texts, strict=True)}
    share = {id(e): e.num_targets / len(e) for e in examples}
    ranks: list[tuple[str, Callable[[Example], float], Callable[[Example], str]]] = [
        ("longest", len, lambda e: f"{len(e):,} tokens"),
        ("least learnt", lambda e: -share[id(e)], lambda e: f"{100 * share[id(e)]:.0f} %"),
        ("densest", lambda e: density[id(e)], lambda e: f"{density[id(e)]:.2f} characters a token"),
    ]
    return [
        (f"{name} ({said(example)})", example)
        for name, rank, said in ranks
        for example in heapq.nlargest(count, examples, key=rank)
    ]


def summary(example: Example, renderer: Renderer) -> str:
    """``312 tokens, 48 trained (15 %), ends with <|im_end|> ✓``"""
    share = 100 * example.num_targets / max(1, len(example))
    line = f"{len(example)} tokens, {example.num_targets} trained ({share:.0f} %)"
    if not example.num_targets:
        return f"{line}: nothing to learn ✗"
    if example.weights is not None:
        told = sorted({float(weight) for weight in example.weights[example.trained]})
        line += f", weight {' and '.join(f'{weight:g}' for weight in told)}"
    last = int(example.ids[example.trained][-1])
    name = visible(str(renderer.tokenizer.convert_ids_to_tokens(last)))
    return f"{line}, ends with {name} {'✓' if last in renderer.stop_ids else '✗ (not a stop token)'}"


def pieces(example: Example, renderer: Renderer) -> list[Piece]:
    """The example's tokens as readable text, in order."""
    control = set(renderer.encoder.control.values())
    backend: Any = renderer.tokenizer.backend_tokenizer
    anchor: list[int] = backend.encode("a", add_special_tokens=False).ids
    lead = len(backend.decode(anchor, skip_special_tokens=False))
    out: list[Piece] = []
    held: list[int] = []
    for id, trained in zip(example.ids.tolist(), example.trained.tolist(), strict=True):
        if id in control:
            text = str(renderer.tokenizer.convert_ids_to_tokens(id))
            out.append(Piece((id,), text, trained, control=True))
            continue
        held.append(id)
        # Decoded behind a letter: some decoders take a space from the very beginning.
        text = backend.decode([*anchor, *held], skip_special_tokens=False)[lead:]
        if "\ufffd" not in text or len(held) > 8:
            out.append(Piece(tuple(held), text, trained, control=False))
            held = []
    if held:
        out.append(Piece(tuple(held), "\ufffd", bool(example.trained[-1]), control=False))
    return out


def visible(text: str) -> str:
    """Text that does nothing to a terminal: controls and direction marks by number, newline as ↵."""
    return "".join(_visible_char(char) for char in text)


def _visible_char(char: str) -> str:
    if char == "\n":
        return "↵"
    if char == "\t":
        return "⇥"
    if char in JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"):
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _painted(piece: Piece, color: bool) -> str:
    paint = GREEN if piece.trained else MAGENTA if piece.control else ""
    return _paint(visible(piece.text), paint, color)


def _paint(text: str, code: str, color: bool) -> str:
    return f"{code}{text}{END}" if color and code and text else text


def show_html(examples: Sequence[Example], renderer: Renderer) -> str:
    """One self-contained page: a chip per token; hover or tap shows its id and text."""
    cards = "\n".join(_card(example, renderer) for example in examples)
    return _PAGE.replace("CARDS", cards, 1)


def _card(example: Example, renderer: Renderer) -> str:
    chips = "".join(_chip(piece) for piece in pieces(example, renderer))
    row, line = html.escape(visible(str(example.row))), html.escape(summary(example, renderer))
    return f"<section><h2>{row}</h2><div class=t>{chips}</div><p>{line}</p></section>"


def _chip(piece: Piece) -> str:
    kind = ("on" if piece.trained else "off") + (" ctl" if piece.control else "")
    text = html.escape(visible(piece.text))
    title = f"{' '.join(map(str, piece.ids))} · {text} · {'learnt' if piece.trained else 'not learnt'}"
    lines = "<br>" * piece.text.count("\n")
    return f'<span class="{kind}" tabindex=0 data-i="{title}">{text}</span>{lines}'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sapwood: tokens</title>
<style>
:root { color-scheme: light dark; --on: #cdebc9; --line: #3c8a3f; --off: #8881; --ctl: #8a4fb0 }
@media (prefers-color-scheme: dark) {
  :root { --on: #1f4a26; --line: #7fce86; --off: #fff1; --ctl: #cf9df0 }
}
body { font: 16px/1.9 system-ui, "Noto Sans CJK SC", sans-serif; margin: 0 auto; max-width: 60rem;
  padding: 1rem 1rem 4rem }
h1 { font-size: 1.2rem }
h2 { font-size: .9rem; font-weight: 500; opacity: .7; margin: 0; overflow-wrap: anywhere }
section { border-top: 1px solid #8884; padding: 1rem 0 }
.t { overflow-wrap: anywhere }
.t span { white-space: pre-wrap; border-radius: 4px; padding: 2px 1px; margin: 0 1px; background: var(--off) }
.t .on { background: var(--on); box-shadow: inset 0 -2px var(--line) }
.t .ctl { color: var(--ctl); font: .85em ui-monospace, monospace }
.t span:hover::after, .t span:focus::after { content: attr(data-i); position: fixed; left: 0; right: 0;
  bottom: 0; padding: .6rem 1rem; background: #222; color: #fff; font: 14px/1.4 ui-monospace, monospace;
  z-index: 1 }
.t span:focus { outline: 2px solid var(--line) }
p { margin: .5rem 0 0; font-size: .9rem; opacity: .8 }
.key > span { padding: 2px 6px; display: inline-block }
[lang="zh-CN"] { font-style: normal; font-weight: 400; opacity: .8 }
</style></head><body>
<h1>What the model learns <span lang="zh-CN">模型要学的内容</span></h1>
<p class="key t"><span class="on">learnt <i lang="zh-CN">要学</i></span>
<span class="off">not learnt <i lang="zh-CN">不学</i></span>
<span class="off ctl">control token <i lang="zh-CN">控制符</i></span></p>
CARDS
</body></html>
"""
