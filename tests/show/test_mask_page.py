"""The page of `sapwood show --html` in a real browser, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.show.mask import pieces, show_html
from sapwood.types import Example
from tests.browser import browser_page
from tests.template.cases import chat, label, real, tiny

DESK, PHONE = (1200, 800), (375, 700)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row of plain words, one of Chinese and emoji, one with a word longer than a phone is wide."""
    renderer = real("qwen1_5")
    turns = [("你是谁?", "我是园丁,看守一片老苗圃。 👩‍🌾"), ("Who?", "A keeper."), ("x" * 300, "a" * 300)]
    examples: list[Example] = [label(renderer.render(chat(*turn))[0], renderer) for turn in turns]
    path = tmp_path_factory.mktemp("show") / "show.html"
    path.write_text(show_html(examples, renderer), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_readable_without_scrolling_sideways(
    page_file: Path, width: int, height: int, dark: bool
) -> None:
    with browser_page(width, height, dark=dark) as page:
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        chip = page.locator("[data-i]").first
        assert page.evaluate("e => parseFloat(getComputedStyle(e).fontSize)", chip.element_handle()) >= 13
        learnt = page.locator("[data-i].on")
        assert learnt.count() > 20
        assert _contrast(page, learnt.nth(3)) >= 4.5  # WCAG 2.2, 1.4.3
        assert _contrast(page, chip) >= 4.5
        assert _background(page, learnt.nth(3)) != _background(page, chip)


def test_every_token_is_on_the_page_as_it_is_spelt(tmp_path: Path) -> None:
    renderer = tiny()
    one = label(renderer.render(chat("<b>&amp;</b>", "<script>document.title = 1</script>"))[0], renderer)
    path = tmp_path / "one.html"
    path.write_text(show_html([one], renderer), encoding="utf-8")
    with browser_page(*DESK) as page:
        page.goto(path.as_uri())
        assert page.locator("[data-i]").count() == len(pieces(one, renderer))
        assert "<script>document.title = 1</script>" in page.inner_text("body").replace("\n", "")
        assert page.title() != "1"


def _background(page, locator) -> list[float]:
    """RGB of what lies behind the text: all that its ancestors paint, over the scheme's canvas."""
    layers = page.evaluate(
        """e => { const seen = getComputedStyle(Object.assign(document.body.appendChild(
                 document.createElement('i')), { style: 'background: Canvas' })).backgroundColor;
               document.body.lastChild.remove();
               const found = [];
               for (; e; e = e.parentElement) found.push(getComputedStyle(e).backgroundColor);
               return [seen, ...found.reverse()].map(c => c.match(/[\\d.]+/g).map(Number)) }""",
        locator.element_handle(),
    )
    below = layers[0][:3]
    for *rgb, alpha in (layer if len(layer) == 4 else [*layer, 1.0] for layer in layers[1:]):
        below = [alpha * over + (1 - alpha) * under for over, under in zip(rgb, below, strict=True)]
    return below


def _contrast(page, locator) -> float:
    """Ratio of the luminances of text and background, as WCAG defines it."""
    text = page.evaluate(
        "e => getComputedStyle(e).color.match(/[\\d.]+/g).map(Number).slice(0, 3)", locator.element_handle()
    )
    dark, light = sorted((_luminance(text), _luminance(_background(page, locator))))
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: list[float]) -> float:
    parts = [c / 255 for c in rgb]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
