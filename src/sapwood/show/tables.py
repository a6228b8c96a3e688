"""Runs and answers as tables: rich for a person, aligned plain text for a pipe."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sapwood.run.query import Comparison, RunSummary, boards
from sapwood.show.figures import UNKNOWN, change, duration, number, steps, stop_reason, visible
from sapwood.show.plot import CURVE
from sapwood.show.stream import SafeStream
from sapwood.types import Sample

if TYPE_CHECKING:
    from rich.table import Table

ADAPTER = "adapter"
RUN_COLUMNS = ("run", "status", "base", "step", "loss", "held-out", "before", "tokens/s", "time")
DROPPED_FIRST = ("base", "tokens/s", "time")  # if the terminal is too narrow for all
LABEL = 11  # columns of the word that a line of facts begins with
PADDING = 3  # columns that rich puts around a column
MOST_OF_A_PROMPT = 600  # characters; all of it is in samples.jsonl
STATUS_STYLES = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "crashed": "red",
    "failed": "red",
}


def show_runs(stream: TextIO, runs: Sequence[RunSummary]) -> None:
    """Print a line for each run; held-out is the best of the run, before that of step 0."""
    rows = [
        [
            run.id,
            run.status,
            visible(run.base),
            steps(run.step, run.total_steps),
            number(run.loss),
            number(run.best_eval_loss),
            number(run.base_eval_loss),
            number(run.tokens_per_second, 0),
            duration(run.seconds),
        ]
        for run in runs
    ]
    _show(stream, RUN_COLUMNS, rows, styles=[STATUS_STYLES.get(run.status, "") for run in runs])


def show_comparison(stream: TextIO, comparison: Comparison) -> None:
    """Print the figures of several runs next to each other, then the config keys in which they differ."""
    runs = comparison.runs
    rows = [
        ["status", *(run.status if run.cause is None else f"{run.status}: {run.cause}" for run in runs)],
        ["step", *(steps(run.step, run.total_steps) for run in runs)],
        ["loss", *(number(run.loss) for run in runs)],
        ["held-out, last", *(number(run.last_eval_loss) for run in runs)],
        ["held-out, best", *(number(run.best_eval_loss) for run in runs)],
        ["held-out, before", *(number(run.base_eval_loss) for run in runs)],
        ["tokens/s", *(number(run.tokens_per_second, 0) for run in runs)],
        ["time", *(duration(run.seconds) for run in runs)],
    ]
    rows += [[key, *(_value(value) for value in values)] for key, values in comparison.config.items()]
    _show(stream, ("", *(run.id for run in runs)), rows)


def side_by_side(
    rows: Sequence[tuple[Sample, Sample]], width: int, titles: tuple[str, str], *, color: bool = False
) -> str:
    """Each prompt with two answers to it next to each other.

    Args:
        rows: two answers to each prompt.
        width: columns of the terminal; wide characters count as two.
        titles: of the first answers, and of the second.
        color: with escape sequences for a terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    for first, second in rows:
        table = Table(box=box.SIMPLE_HEAD, expand=True, title_justify="left", pad_edge=False)
        table.title = Text(f"› {visible(first.prompt, MOST_OF_A_PROMPT)}", style="bold")
        table.add_column(titles[0], ratio=1, header_style="dim", overflow="fold")
        table.add_column(titles[1], ratio=1, header_style="green", overflow="fold")
        table.add_row(*(_answer(sample) for sample in (first, second)))
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def summary(stream: TextIO, run: RunSummary) -> None:
    """Print how a run ended, in figures, and the command for each thing one may do next."""
    name = shlex.quote(str(run.path))
    head = f"{run.name} {run.status}: {steps(run.step, run.total_steps)} steps in {duration(run.seconds)}"
    facts = [] if run.cause is None else [("crashed", run.cause)]
    facts += [("loss", number(run.loss)), ("held-out", _held_out(run))]
    facts += [("tokens/s", number(run.tokens_per_second, 0)), ("run", str(run.path))]
    facts += [(word, str(run.path / file)) for word, file in _results(run.path)]
    if run.skipped_steps:
        facts.append(("skipped", f"{run.skipped_steps} steps whose loss or gradient was no number"))
    if run.damaged_lines:
        facts.append(("damaged", f"{run.damaged_lines} lines of the record can't be read"))
    if run.status in ("stopped", "crashed", "failed"):
        commands = [("go on", f"sapwood resume {name}")]
    else:
        commands = [("talk to it", f"sapwood chat {name}"), ("measure it", f"sapwood eval {name}")]
        commands.append(("use it elsewhere", f"sapwood export {name} --to ollama"))
    commands.append(("see its figures", f"sapwood runs {name}"))
    commands += [(f"see it in {tracker}", see) for tracker, see in boards(run.path).items()]
    out = SafeStream(stream)
    out.write("\n".join([head, *_aligned(facts, "  "), "next", *_aligned(commands, "  "), ""]))
    out.flush()


# --- inside -----------------------------------------------------------------------------------------------


def _held_out(run: RunSummary) -> str:
    if run.last_eval_loss is None:
        return UNKNOWN
    text = number(run.last_eval_loss)
    if run.base_eval_loss is not None:
        less = change(run.last_eval_loss, run.base_eval_loss)
        text = f"{number(run.base_eval_loss)} (before) to {text}, {less}"
    return f"{text}; best {number(run.best_eval_loss)}"


def _results(run: Path) -> list[tuple[str, str]]:
    return [(word, file) for word, file in (("adapter", ADAPTER), ("curve", CURVE)) if (run / file).exists()]


def _answer(sample: Sample) -> Any:
    from rich.text import Text

    text = Text(visible(sample.answer))
    return text.append(f"\n[{stop_reason(sample)}]", "green" if sample.stopped else "yellow")


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in cast("list[object]", value))
    return UNKNOWN if value is None else visible(str(value))


def _show(
    stream: TextIO, head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] | None = None
) -> None:
    """``styles``: for each row, the colour of its second cell."""
    out = SafeStream(stream)
    if out.isatty():
        from rich.console import Console

        console = Console(file=cast("TextIO", out), highlight=False)
        console.print(_rich_table(*_fitting(head, rows, console.width), styles))
    else:
        out.write("\n".join([*_aligned([head, *rows]), ""]))
    out.flush()


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim")
    for name in head:
        table.add_column(Text(name), overflow="fold")
    for index, row in enumerate(rows):
        cells = [Text(cell) for cell in row]
        if styles:
            cells[1].stylize(styles[index])
        table.add_row(*cells)
    return table


def _fitting(
    head: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The table without the columns that matter least, as far as ``width`` asks for it."""
    columns = list(zip(head, *rows, strict=True))
    for name in DROPPED_FIRST:
        if sum(_width(column) + PADDING for column in columns) < width:
            break
        columns = [column for column in columns if column[0] != name]
    head, *rows = zip(*columns, strict=True)
    return head, rows


def _aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Columns padded to their widest cell; a Chinese character takes two places."""
    from rich.cells import cell_len

    widths = [_width(column) for column in zip(*rows, strict=True)]
    return [
        indent + "  ".join(c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _width(column: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(cell) for cell in column)


def hanging(text: str) -> str:
    """Lines that begin with a word, for a terminal: what doesn't fit goes on below, behind the word's column.
    Text for a file or a pipe stays as it is, and so does a word that is longer than a line."""
    return hung(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text


def hung(text: str, width: int) -> str:
    """`hanging` for a terminal of ``width`` columns."""
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent=" " * LABEL, break_long_words=False, break_on_hyphens=False
        )
        if len(line) > width
        else line
        for line in text.splitlines()
    )
