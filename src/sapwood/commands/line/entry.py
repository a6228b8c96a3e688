"""From the command line to a verb, and from whatever it raises to one clear message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from typing import Any, NoReturn

from sapwood.errors import ConfigError, Problem, SapwoodError
from sapwood.machine.system import SPINS, busy_processes
from sapwood.show.manner import progress

BUSY = 0.4  # running processes a core, without this one, from which on a machine counts as busy
ANYWHERE = {
    "--debug": "debug", "-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose",
    "--no-color": "plain", "--no-colour": "plain",
}  # fmt: skip


@dataclass(slots=True)
class Manner:
    """How this process speaks: the options that may stand anywhere on the command line."""

    debug: bool = False
    quiet: bool = False
    verbose: bool = False
    plain: bool = False

    def settle(self) -> None:
        """Pass these options on: to libraries by NO_COLOR, to our own modules by the level of their log."""
        if self.plain:
            os.environ["NO_COLOR"] = "1"
        if self.verbose:
            logging.basicConfig(level=logging.WARNING, format="sapwood: %(message)s")
        if self.quiet or self.verbose:
            logging.getLogger("sapwood").setLevel(logging.ERROR if self.quiet else logging.DEBUG)


def take_manner(arguments: Sequence[str]) -> tuple[list[str], Manner]:
    """The arguments without those that may stand anywhere, and what these say. What follows ``--`` stays."""
    manner, rest = Manner(), list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    for word in rest[:end]:
        if word in ANYWHERE:
            setattr(manner, ANYWHERE[word], True)
    return [word for i, word in enumerate(rest) if i >= end or word not in ANYWHERE], manner


def run(app: Any) -> NoReturn:
    """Run the verb that sys.argv names, and leave with its exit code."""
    never_choke()
    yield_to_others()
    arguments, manner = take_manner(sys.argv[1:])
    manner.settle()
    as_json = "--json" in arguments
    try:
        with progress():
            code = app(arguments, standalone_mode=False, prog_name="sapwood")
        sys.exit(code if isinstance(code, int) else 0)
    except SapwoodError as error:
        if manner.debug:
            raise
        leave(error.problems, error.exit_code, as_json=as_json, text=str(error))
    except KeyboardInterrupt:
        leave([Problem("interrupted")], 130, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read stdout has left
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's: the command line itself is wrong
            refuse_usage(error, as_json=as_json)
        if manner.debug:
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        leave([Problem(what, "this is a fault of sapwood", "--debug shows where")], 1, as_json=as_json)


def refuse_usage(error: Any, *, as_json: bool) -> NoReturn:
    """An unknown or missing verb or option, told as every other fault is."""
    context = getattr(error, "ctx", None)
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help())
        sys.exit(0)
    path = context.command_path if context is not None else "sapwood"
    what = " ".join(str(error.format_message()).split()).rstrip(".")
    found = ConfigError(what[:1].lower() + what[1:], path, mend=f"{path} --help")
    leave(found.problems, found.exit_code, as_json=as_json)


def leave(problems: Sequence[Problem], code: int, *, as_json: bool, text: str = "") -> NoReturn:
    """Every problem on stderr, for a person; with ``as_json`` also on stdout, where a program reads."""
    for line in (text or "\n".join(map(str, problems))).splitlines():
        print(f"sapwood: {line}", file=sys.stderr)
    if as_json:
        from json import dumps

        told = {"kind": "error", "exit_code": code, "problems": [asdict(problem) for problem in problems]}
        print(dumps(told, ensure_ascii=False), flush=True)
    sys.exit(code)


def yield_to_others() -> None:
    """On a busy machine, let threads that wait spin for a moment only: one that spins takes the time of the
    one that works, and a step takes three times as long. Must be said before torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ and busy_processes() > BUSY * (os.cpu_count() or 1):
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def never_choke() -> None:
    """A terminal in ASCII or GBK shows what it can of a text; it ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
