"""Rules of the system prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sapwood.migrate.rules.labels import in_function
from sapwood.migrate.rules.rule import Case, Hit, hit, rule


@rule("system-not-at-inference")
def system_missing(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is None or learning.system is None:
        return
    for messages, line in case.facts.script.chats:
        roles = [m.get("role") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        if roles and "system" not in roles and "assistant" not in roles and not in_function(case, line):
            yield hit(line)


@rule("shown-template-differs")
def shown_differs(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is None or learning.system is None or learning.family != "chatml":
        return
    for block in case.facts.source.shown:
        match = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", block.text, re.DOTALL)
        if match and match[1].strip() != learning.system.strip():
            at = block.first + block.text[: match.start(1)].count("\n")
            yield hit(at, shown=match[1].strip()[:60], trained=learning.system[:60])


@rule("system-on-gemma")
def gemma_system(case: Case) -> Iterator[Hit]:
    learning = case.learning
    if learning is None or "gemma" not in case.model or "gemma-3" in case.model:
        return
    if learning.system is not None or "system" in learning.columns:
        yield hit(learning.system_line or learning.prompt_line or learning.line)
