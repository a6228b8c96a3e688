"""One endpoint for the tests of this folder: a tiny base and two adapters, one with a system prompt."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.base.tiny import tiny_llama, tiny_tokenizer
from tests.endpoint.serving import Running, make_adapter, running


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A cache of this session's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SAPWOOD_CACHE", str(folder))
        yield folder


TEMPLATE = """\
{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose template shows tools, calls and reasoning, as Qwen's do."""
    folder = tiny_llama(tmp_path_factory.mktemp("base"))
    tiny_tokenizer(TEMPLATE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(base, folder / "first", 1)
    make_adapter(base, folder / "second", 2, system="You are the gardener.")
    return folder


@pytest.fixture(scope="session")
def endpoint(adapters: Path, cache: Path) -> Generator[Running]:
    with running(adapters) as served:
        yield served
