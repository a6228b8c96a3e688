"""Templates from strangers: bounded in time and output, and blocked from Python."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from sapwood.errors import DataError
from sapwood.template import jinja
from tests.base.tiny import CHATML
from tests.template.cases import chat, tiny

GUARD = "{% if messages | length > 2 %}BOMB{% endif %}"  # the probe of the constructor gets past it
ROW = chat("a", "b", "c", "d")
LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = b %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("bomb", "why"),
    [
        ("{{ 'a' * (messages | length * 1000000) * 1000 }}", "repeats"),
        ("{{ [1] * (messages | length * 1000000) * 1000 }}", "repeats"),
        ("{{ (messages | length) ** 100000 }}", "power"),
        ("{{ 'a'.ljust((messages | length) * 1000000 * 1000) }}", "ljust would make 4,000,000,000"),
        ("{{ 'a' | center((messages | length) * 1000000 * 1000) }}", "center would make"),
        ("{{ ('aaaa' * 1000000).replace('a', 'b' * 100000) }}", "replace would make"),
        ("{{ ('aaaa' * 1000000) | replace('a', 'b' * 100000) }}", "replace would make"),
        ("{{ ('b' * 100000).join('a' * 1000000) }}", "join would make"),
        ("{{ ('a' * 1000000) | list | join('b' * 100000) }}", "join would make"),
        ("{{ ('a\n' * 100000) | indent(1000000) }}", "indent would make"),
        ("{{ ('{:>' ~ '9' * 10 ~ '}').format(1) }}", "huge width"),
        ("{{ ('%' ~ '9' * 10 ~ 'd') % 1 }}", "huge width"),
        ("{{ ('%' ~ '9' * 10 ~ 'd') | format(1) }}", "huge width"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely|unsafe|Security|append"),
    ],
)
def test_bombs_and_escapes_are_refused(bomb, why):
    with pytest.raises(DataError, match=why):
        tiny(CHATML + GUARD.replace("BOMB", bomb)).render(ROW)


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 2000000000 }}",
        "{{ 10 ** 999999 }}",
        "{{ 'a' * 999999 * 999999 }}",
        "{{ 'a' | center(2000000000) }}",
        "{{ '%2000000000d' % 1 }}",
    ],
)
def test_bombs_that_compiling_would_set_off_are_refused_before(bomb):
    with pytest.raises(DataError, match="something huge"):
        tiny(CHATML + GUARD.replace("BOMB", bomb))


def test_an_honest_constant_is_no_bomb():
    assert "-" * 40 in tiny("{{ '-' * 40 }}" + CHATML).render(ROW)[0].text


PILE = """
from datetime import datetime
from jinja2.sandbox import ImmutableSandboxedEnvironment
from sapwood.template import jinja
jinja.MEMORY, jinja.SECONDS, jinja.LOOKS = 100_000_000, 120, 1200
spin = "{% for a in range(20000) %}{% for b in range(5) %}{% endfor %}{% endfor %}"
grow = "{% set ns = namespace(x='a' * 1000000) %}{% for i in range(12) %}{% set ns.x = ns.x ~ ns.x %}"
source = spin + grow + spin + "{% endfor %}"
template = jinja.ChatTemplate(ImmutableSandboxedEnvironment(), source, datetime.now())
try:
    template.render({})
except jinja.TemplateFault as fault:
    print(fault)
"""


def test_a_template_that_piles_up_memory_is_stopped():
    done = subprocess.run(
        [sys.executable, "-c", PILE], capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout == "it took more than 100 MB\n"


def test_honest_methods_and_filters_work():
    text = (
        "{{ ['a', 'b'] | join('-') }}{{ 'x'.center(5) }}{{ 'a\nb' | indent(2) }}"
        "{{ '%03d' % 7 }}{{ '{}'.format('q').replace('q', 'r') }}"
    )
    assert "a-b  x  a\n  b007r" in tiny(text + CHATML).render(ROW)[0].text


def test_an_endless_template_is_stopped_in_any_thread(monkeypatch):
    monkeypatch.setattr(jinja, "SECONDS", 0.2)
    renderer = tiny(CHATML + GUARD.replace("BOMB", LOOP))
    found: list[str] = []

    def work() -> None:
        with pytest.raises(DataError) as error:
            renderer.render(ROW)
        found.append(str(error.value))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join(20)
    assert len(found) == 3
    assert all("it ran for more than 0.2 s" in text for text in found)


def test_a_rendering_that_leaves_as_the_watchdog_fires_still_ends_as_a_fault(monkeypatch):
    monkeypatch.setattr(jinja, "SECONDS", 0.05)
    for extra in range(12):
        try:
            with jinja._bounded():
                end = time.thread_time() + 0.05 + extra * 0.001
                while time.thread_time() < end:
                    pass
        except jinja.TemplateFault as fault:
            assert "it ran for more than" in str(fault)
    time.sleep(0.1)  # nothing may arrive late


def test_a_machine_that_was_stopped_is_no_fault_of_the_template(monkeypatch):
    monkeypatch.setattr(jinja, "SECONDS", 0.05)
    with jinja._bounded():
        time.sleep(0.2)


def test_a_forked_child_has_a_watchdog_of_its_own(monkeypatch):
    renderer = tiny(CHATML + GUARD.replace("BOMB", LOOP))
    with jinja._WATCHDOG._lock:  # as if the fork had met the watchdog at work
        child = os.fork()
        if child == 0:
            jinja.SECONDS = 0.1
            try:
                renderer.render(ROW)
            except DataError:
                os._exit(0)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_too_much_output_is_refused(monkeypatch):
    monkeypatch.setattr(jinja, "MAX_TEXT", 1000)
    with pytest.raises(DataError, match="it wrote"):
        tiny(CHATML + GUARD.replace("BOMB", "{% for a in range(999) %}xx{% endfor %}")).render(ROW)
