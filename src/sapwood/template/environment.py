"""The jinja2 environment that transformers renders chat templates in. It is transformers' own, always."""

from __future__ import annotations

import inspect
import logging
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

ALONE = "sapwood_chat_templates"
FILE = "chat_template_utils"


def environment() -> Any:
    """An environment like that of transformers, but a private one: all users of the shared one share its
    clock."""
    make = _making()._cached_compile_jinja_template
    return inspect.unwrap(make)("").environment


@cache
def _making() -> Any:
    """The module of transformers that makes the environment. If transformers isn't imported yet, the module
    is loaded without the rest, which takes longer to import than a server takes to start. If that fails in
    any way, all of transformers is imported."""
    if "transformers" not in sys.modules:
        with suppress(Exception):
            return _by_itself()
    from transformers.utils import chat_template_utils

    return chat_template_utils


def _by_itself() -> ModuleType:
    """The two things that the module imports from transformers: a logger, and what is installed."""
    package = find_spec("transformers")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "utils" / f"{FILE}.py"
    told: dict[str, Any] = {"is_jinja_available": lambda: True}
    told |= {f"is_{name}_available": lambda: False for name in ("torch", "vision")}
    around = {"": {"__path__": []}, ".logging": {"get_logger": logging.getLogger}, ".import_utils": told}
    made = {ALONE + name: ModuleType(ALONE + name) for name in around}
    for name, values in around.items():
        vars(made[ALONE + name]).update(values)
    spec = spec_from_file_location(f"{ALONE}.{FILE}", file)
    assert spec is not None and spec.loader is not None
    module = made[spec.name] = module_from_spec(spec)
    sys.modules.update(made)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in made:
            sys.modules.pop(name, None)
        raise
    return module
