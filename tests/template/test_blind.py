"""Templates that only copy are told from those that look; in doubt they look."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sapwood.template.blind import is_blind
from sapwood.template.families import FAMILIES
from tests.base.tiny import CHATML
from tests.template.cases import MISBEHAVING, THINKING, TOOLS

SAYS = "messages[0].content"
LOOPS = "{% for m in messages %}BODY{% endfor %}"


def blind(source: str) -> bool:
    return is_blind(ImmutableSandboxedEnvironment().parse(source))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_built_in_families_only_copy(name: str) -> None:
    assert blind(FAMILIES[name].template)


@pytest.mark.parametrize(
    "source",
    [
        CHATML,
        TOOLS,
        MISBEHAVING["trims content"],
        MISBEHAVING["drops the system message"],
        "{{ messages[0]['content'] | trim }}{{ messages[-1].content }}",
        LOOPS.replace("BODY", "{% if m.content %}{{ m.role ~ ': ' ~ m.content }}{% endif %}"),
        LOOPS.replace("BODY", "{% if m.content is string %}{% set c = m.content %}{{ c }}{% endif %}"),
        LOOPS.replace("BODY", "{{ m.content if m.role == 'user' else '- ' + m.content }}{{ loop.index0 }}"),
        "{% for m in messages[1:] %}{% if not loop.last %}{{ loop.nextitem.role }}{% endif %}{% endfor %}",
        "{% if messages | length > 2 %}{{ messages | length }}{% endif %}",
    ],
)
def test_copying(source: str) -> None:
    assert blind(source)


@pytest.mark.parametrize(
    "source",
    [
        THINKING,
        "{{ messages | tojson }}",
        "{{ messages }}",
        LOOPS.replace("BODY", "{{ m }}"),
        LOOPS.replace("BODY", "{{ m ~ '' }}"),
        LOOPS.replace("BODY", "{{ m.content.split('x')[0] }}"),
        LOOPS.replace("BODY", "{% if 'x' in m.content %}a{% endif %}"),
        LOOPS.replace("BODY", "{% set c = m.content %}{% if c == 'x' %}a{% endif %}"),
        LOOPS.replace("BODY", "{% if c is defined and c == 'x' %}a{% endif %}{% set c = m.content %}"),
        LOOPS.replace("BODY", "{{ m.content | length }}{{ m.content | upper }}"),
        LOOPS.replace("BODY", "{{ m['con' + 'tent'] }}"),
        LOOPS.replace("BODY", "{{ m.content[:3] }}"),
        LOOPS.replace("BODY", "{{ m.get('content') }}"),
        LOOPS.replace("BODY", "{{ loop.changed(m.content) }}"),
        "{% for m in messages if m.content != 'q' %}{{ m.content }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ v }}{% endfor %}",
        "{% for k in messages[0] %}{{ messages[0][k] }}{% endfor %}",
        f"{{% for c in {SAYS} %}}{{{{ c }}}}{{% endfor %}}",
        "{% set ns = namespace(c='') %}{% for m in messages %}{% set ns.c = m.content %}{% endfor %}",
        "{{ messages | map(attribute='content') | join }}",
        "{{ messages | selectattr('content', 'equalto', 'x') | list | length }}",
        f"{{{{ strftime_now({SAYS}) }}}}",
        f"{{{{ ({SAYS}, 1) }}}}",
        f"{{{{ {SAYS} ~ 1 in 'abc' }}}}",
        f"{{{{ {SAYS} * 2 }}}}",
        f"{{{{ '%s' % {SAYS} }}}}",
        f"{{{{ {SAYS} or 'x' }}}}",
        f"{{{{ {SAYS} is equalto 'x' }}}}",
        f"{{% set a = [{SAYS}] %}}{{{{ a[0] }}}}",
        f"{{% set b %}}{{{{ {SAYS} }}}}{{% endset %}}{{{{ b | length }}}}",
        "{% macro f(x) %}{{ x | length }}{% endmacro %}{{ f(messages[0].content) }}",
    ],
)
def test_looking(source: str) -> None:
    assert not blind(source)
