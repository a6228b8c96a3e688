"""What to type for a library that is missing, wherever sapwood itself came from: an index, or a clone."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from sapwood.errors import ConfigError


def install(extra: str) -> str:
    """The command that installs what an extra of ours (``[project.optional-dependencies]``) stands for."""
    return f"{python()} -m pip install {' '.join(quote(name) for name in requirements(extra))}"


def python() -> str:
    """What a shell calls the Python that runs sapwood: ``python`` if that name leads here, else its path. A
    tool that was installed by uv or pipx has an environment that no shell enters."""
    here, found = Path(sys.executable), shutil.which("python")
    return "python" if found and Path(found).parent == here.parent else quote(str(here))


def require(extra: str, *modules: str) -> None:
    """Raises ConfigError naming what to install if a library of an extra is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{missing[0]} isn't installed", extra, mend=install(extra))


def requirements(extra: str) -> list[str]:
    """The libraries of an extra, each with its bounds; the extra's own name where nobody knows."""
    try:
        wanted = [line.partition(";") for line in requires("sapwood") or ()]
    except PackageNotFoundError:
        wanted = []
    marked = re.compile(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]")
    return [name.strip() for name, _, marker in wanted if marked.search(marker)] or [extra]


def needs(library: str, extra: str, where: str) -> None:
    """Raise ConfigError where ``library`` of an extra isn't installed; nothing is imported."""
    from importlib.util import find_spec

    from sapwood.errors import ConfigError

    if find_spec(library) is None:
        raise ConfigError(f"{where} needs {library}", where, mend=install(extra))
