from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sapwood.show.mask import pieces, show, show_html, summary, worst_first
from sapwood.types import Example
from tests.template.cases import FAMILY, chat, label, real, tiny


def example(renderer, *texts):
    return label(renderer.render(chat(*texts))[0], renderer)


def test_the_mask_shows_without_colour():
    renderer = tiny()
    text = show(example(renderer, "Hi", "Plant it."), renderer, color=False)
    first, *_, facts = text.split("\n")
    assert first == "<|im_start|>│user│↵"
    assert "│↵\n⟦P┃lant┃ it┃.┃<|im_end|>⟧↵\n" in text
    assert "\x1b" not in text
    assert re.fullmatch(r"\d+ tokens, 5 trained \(\d+ %\), ends with <\|im_end\|> ✓", facts)


def test_colour_is_added_and_nothing_else():
    renderer = tiny()
    one = example(renderer, "Hi", "Plant it.")
    coloured = show(one, renderer, color=True)
    assert "\x1b[1;32m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == show(one, renderer, color=False)


@pytest.mark.parametrize("name", FAMILY)
def test_the_pieces_join_to_the_text(name):
    renderer = real(name)
    content = "我是园丁。 👩‍🌾 Ja, ö\n\n  x"
    found = pieces(example(renderer, "你是谁?", content), renderer)
    joined = "".join(piece.text for piece in found)
    assert content in joined
    assert sum(len(piece.ids) for piece in found) == len(example(renderer, "你是谁?", content))
    assert [piece.text for piece in found if piece.control][-1] == renderer.stop_text


def test_control_text_of_the_row_looks_different_from_a_control_token():
    renderer = tiny()
    text = show(example(renderer, "a<|im_end|>b", "c"), renderer, color=False)
    assert text.count("<|im_end|>") == 3  # two tokens, and the last line
    assert "│<│|│" in text


def test_escapes_and_direction_marks_do_nothing_to_a_terminal():
    renderer = tiny()
    evil = "\x1b[31mred\x1b[0m \u202egnp\u2066 \x07\r\x00 \u200b\ufeff \u2028 \U000e0041 ok\t\x85"
    for text in (
        show(example(renderer, evil, evil), renderer, color=False),
        show_html([example(renderer, evil, evil)], renderer),
    ):
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\u2028\ufeff]", text
        )
    shown = show(example(renderer, evil, "a"), renderer, color=False)
    assert "\\x1b" in shown
    assert "\\u202e" in shown
    assert "\\U000e0041" in shown
    assert "⇥" in shown


def test_an_example_without_its_stop_token_is_marked():
    renderer = tiny()
    one = example(renderer, "Hi", "Plant it.")
    cut = one.trained & (one.ids != 2)
    assert summary(Example(one.row, one.ids, cut), renderer).endswith("ends with . ✗ (not a stop token)")
    nothing = np.zeros(len(one), dtype=np.bool_)
    assert summary(Example(one.row, one.ids, nothing), renderer).endswith("nothing to learn ✗")


def test_half_a_character_at_the_end_is_shown_as_such():
    renderer = tiny()
    one = example(renderer, "Hi", "👩")
    at = int(np.flatnonzero(one.trained)[1])
    half = Example(one.row, one.ids[:at], one.trained[:at])
    assert pieces(half, renderer)[-1].text == "\ufffd"


class _Chips(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.chips: list[dict[str, str | None]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if "data-i" in dict(attrs):
            self.chips.append(dict(attrs))


def test_the_page_has_a_chip_for_each_token_and_needs_nothing_else():
    renderer = tiny()
    one = example(renderer, "<script>alert(1)</script>", '"quoted" & CARDS')
    page = show_html([one, one], renderer)
    parser = _Chips()
    parser.feed(page)
    assert len(parser.chips) == 2 * len(pieces(one, renderer))
    assert "script" not in parser.tags
    learnt = [chip for chip in parser.chips if "on" in str(chip["class"]).split()]
    assert len(learnt) == 2 * one.num_targets
    assert all(str(chip["data-i"]).endswith(" learnt") for chip in learnt)
    assert "http" not in page
    assert page.count("data.json:1") == 2
    assert 'name="viewport"' in page


def test_the_worst_come_first_and_say_what_they_are_the_worst_of():
    renderer = tiny()
    rows = [("q", "Plant it."), ("q", "Water it. " * 20), ("why? " * 20, "a"), ("q", "Plant it. Water it. x")]
    found = worst_first([example(renderer, *row) for row in rows], renderer, 1)
    titles = [title for title, _ in found]
    assert [title.split(" (")[0] for title in titles] == ["longest", "least learnt", "densest"]
    assert titles[0] == f"longest ({max(len(example(renderer, *row)) for row in rows):,} tokens)"
    assert found[1][1].ids.tolist() == example(renderer, *rows[2]).ids.tolist()
    assert len(worst_first([one for _, one in found], renderer, 2)) == 6
