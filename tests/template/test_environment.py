"""Chat templates run in transformers' own environment, also where the rest of transformers isn't imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from sapwood.template import environment as module
from tests.template.real_tokenizers import real_tokenizer

TURNS = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Héllo 你好\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And?"},
]
ODD = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.index0 == 3 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{% generation %}{{ m | tojson(indent=1) }}{% endgeneration %}\n{% endfor %}"
    "{{ ns.n }}{{ dict(a=1) }}"
)
REFUSED = (
    *("{{ raise_exception('no') }}", "{{ namespace(_a=1) }}"),
    *("{{ messages.__class__.mro() }}", "{% end %}"),
)


def both() -> list[Any]:
    """transformers' environment, as the whole package makes it and as its file alone does."""
    makers = (chat_template_utils, module._by_itself())  # pyright: ignore[reportPrivateUsage]
    return [inspect.unwrap(one._cached_compile_jinja_template)("").environment for one in makers]


def facts(environment: Any) -> dict[str, Any]:
    names = ("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "autoescape", "newline_sequence")
    told = {name: getattr(environment, name) for name in names}
    sides = {side: sorted(getattr(environment, side)) for side in ("filters", "tests", "globals")}
    kinds = [type(one).__qualname__ for one in environment.extensions.values()]
    return told | sides | {"extensions": sorted(kinds), "kind": type(environment).__mro__[0]}


def test_it_is_the_same_in_every_setting_and_text() -> None:
    whole, alone = both()
    assert facts(whole) == facts(alone)
    templates = [real_tokenizer(name).chat_template for name in ("gemma2", "qwen1_5")]
    for template in (*templates, ODD):
        for turns in (TURNS, TURNS[1:]):
            told: list[str] = []
            for environment in (whole, alone):
                try:
                    compiled = environment.from_string(template)
                    told.append(compiled.render(messages=turns, add_generation_prompt=True, bos_token="<s>"))
                except Exception as error:
                    told.append(f"{type(error).__name__}: {error}")
            assert told[0] == told[1]
    for template in REFUSED:
        said = [fault(environment, template) for environment in (whole, alone)]
        assert said[0] == said[1]


def fault(environment: Any, template: str) -> str:
    with pytest.raises(Exception) as caught:
        environment.from_string(template).render(messages=TURNS)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_transformers_is_not_imported_for_it() -> None:
    script = (
        "import sys\nfrom sapwood.template.environment import environment\n"
        "print(environment().from_string('{{ [1] | tojson }}').render(), "
        "[name for name in ('transformers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[1] []", done.stderr


def test_a_surprise_in_the_file_leaves_the_whole_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "transformers")
    module._making.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        assert module._making().__name__ == "transformers.utils.chat_template_utils"  # pyright: ignore[reportPrivateUsage]
    finally:
        module._making.cache_clear()  # pyright: ignore[reportPrivateUsage]
