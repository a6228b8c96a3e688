"""Make the pictures of the README and the docs anew: ``python docs/pictures.py`` (needs tmux and Chromium).

Runs the demo in a terminal of tmux, photographs it and the local page in the middle of the training, and
afterwards the page's other screens. It then draws the page of `sapwood show --html` and takes the run's own
loss curve. What is seen is what a user sees, so the machine should do nothing else.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
SAPWOOD = Path(sys.executable).with_name("sapwood")
COLUMNS, ROWS = 100, 30
SESSION = "sapwood-pictures"
STEP = re.compile(r"step (\d+)/(\d+)")  # of the training, as the screen says it
MOMENT = 0.6  # of its steps: then it is photographed
PAGE = (1280, 800)  # pixels of a screen of the local page

sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        with local_page(Path(folder), runs) as shoot:
            svg = photograph_terminal(
                f"sapwood demo --runs {shlex.quote(str(runs))}",
                lambda: shoot(f"/run/{only(runs).name}", ".main-chart svg", "page-run.png"),
            )
            run = only(runs)
            rows = f"/data?run={run.name}&sort=length&row=14"
            shoot(rows, "text=/[0-9]+ tokens, /", "page-data.png", dark=True)
            shoot("/new?data=builtin:nursery", "text=Every row is proved", "page-new.png")
        print((run / "demo.json").read_text(encoding="utf-8"), end="")
        shrink(run / "loss.png", PICTURES / "loss.png")
        page = Path(folder) / "show.html"
        config = run / "config.yaml"
        subprocess.run([SAPWOOD, "show", config, "-n", "2", "--html", page], check=True)
        draw(f"<body style='margin:0'>{svg}", PICTURES / "terminal.png", width=1240, height=800, fit="svg")
        draw(page.read_text(encoding="utf-8"), PICTURES / "show.png", width=760, height=620)
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1000} kB")
    return 0


def only(runs: Path) -> Path:
    return next(run for run in runs.iterdir() if run.is_dir())


@contextmanager
def local_page(home: Path, runs: Path) -> Generator[Callable[..., None]]:
    """A server of the page, and what photographs one of its screens when an element of it is there."""
    from tests.browser import chromium, page_in
    from tests.page.shared import serve

    runs.mkdir()
    server = serve(home, runs)

    def shoot(path: str, wanted: str, name: str, *, dark: bool = False) -> None:
        with chromium() as browser, page_in(browser, *PAGE, dark=dark, locale="en-US") as page:
            page.goto(server.url(f"/?token={server.token}"))
            page.goto(server.url(path))
            page.locator(wanted).first.wait_for(timeout=120_000)
            page.wait_for_timeout(3000)
            page.screenshot(path=PICTURES / name)

    try:
        yield shoot
    finally:
        server.stop()


def photograph_terminal(command: str, at_the_moment: Callable[[], Any]) -> str:
    """Run ``command`` in a terminal of its own; the screen as SVG, at the `MOMENT`."""
    from rich.console import Console
    from rich.text import Text

    shell = f"PATH={shlex.quote(str(SAPWOOD.parent))}:$PATH; clear; {command}"
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS), shell)
    screen = ""
    while tmux("has-session", "-t", SESSION, check=False).returncode == 0:
        seen = tmux("capture-pane", "-e", "-p", "-t", SESSION, check=False).stdout
        step = STEP.search(Text.from_ansi(seen).plain)
        if not screen and step and int(step[1]) >= MOMENT * int(step[2]):
            screen = seen
            at_the_moment()
        time.sleep(0.3)
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(Text.from_ansi(screen.rstrip()))
    svg = console.export_svg(title="sapwood demo")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a font from the net: ours will do


def tmux(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["tmux", *words], check=check, capture_output=True, text=True)


def draw(html: str, path: Path, *, width: int, height: int, fit: str | None = None) -> None:
    """A picture of a page as Chromium shows it, or of its first element ``fit``."""
    from tests.browser import browser_page

    with browser_page(width, height) as page:
        page.set_content(html)
        where = page.locator(fit).first if fit else page
        where.screenshot(path=path)


def shrink(source: Path, target: Path, width: int = 1200) -> None:
    from PIL import Image

    with Image.open(source) as picture:
        picture.resize((width, picture.height * width // picture.width)).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
