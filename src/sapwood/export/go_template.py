"""A chat template as a Go template, for Ollama: derived from how the trained one renders, then checked by
rendering.

What a template writes around the content of each role is found by rendering conversations of marks; the Go
template writes the same around the same. Both then render conversations of many forms; if a single
character differs the template is refused. Contents are trimmed by some templates and never by Go's, so the
form is exact for contents without blanks at their edges.

The Go templates are written in the part of Go's text/template that `render` knows: range, if/else, eq, ne,
and, or, index, variables, quoted strings.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sapwood.errors import DataError, ExportError
from sapwood.types import Message, Role

Text = Callable[[Sequence[Message]], str]
MARK = "Qx7"  # content that no template writes by itself

_FORMS: tuple[tuple[Role, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
)


def go_template(text: Text, stop: str) -> str:
    """The Go template that renders as ``text`` does (a prompt for the next answer, `Renderer.prompt_text`).

    ``stop``: the token that ends an answer. Raises ExportError if none can be derived.
    """
    for made in (*_turns(text, stop), *_folded(text)):
        if difference(made, text) is None:
            return made
    raise ExportError(
        "no Ollama template can be derived from the trained chat template",
        "template",
        "it does more than write fixed text around each turn",
        "export to gguf, whose file carries the Jinja template itself",
    )


def difference(template: str, text: Text) -> str | None:
    """The first conversation that the Go template renders otherwise, or None."""
    for messages in conversations(text):
        if render(template, messages) != text(messages):
            return " / ".join(f"{m.role}: {m.text}" for m in messages)
    return None


def conversations(text: Text) -> Iterator[tuple[Message, ...]]:
    """Conversations of many forms, as far as the trained template takes them."""
    contents = ("Hi", 'Two\n\nlines, <b>&amp;</b> {{ }} "quoted"', "你好 🌳")
    for system, roles in itertools.product((None, "You are the gardener.", "Be brief.\nAlways."), _FORMS):
        turns = tuple(Message(role, contents[i % 3]) for i, role in enumerate(roles))
        messages = ((Message("system", system),) if system else ()) + turns
        if takes(text, messages):
            yield messages


def takes(text: Text, messages: Sequence[Message]) -> bool:
    try:
        text(messages)
    except DataError:
        return False
    return True


# --- deriving ---------------------------------------------------------------------------------------------


def _turns(text: Text, stop: str) -> Iterator[str]:
    """Every message by itself; perhaps a system prompt of the template's own if there is none."""
    head, tail = _parts(text, "user")
    start_of_all, to_answer, between, last = _parts(text, "user", "assistant", "user")
    if start_of_all != head or last != tail or not to_answer.startswith(tail):
        return
    before_answer = to_answer.removeprefix(tail)
    # ``between`` ends an answer and begins a question; the nearest to the stop token is the natural cut
    ended = between.find(stop) + len(stop) if stop in between else 0
    cuts = range(len(between) + 1)
    for cut in sorted(cuts, key=lambda cut: (cut < ended or between[ended:cut].strip() != "", -cut)):
        after_answer, before_user = between[:cut], between[cut:]
        if head.endswith(before_user):
            start = head[: len(head) - len(before_user)]
            user = _said("user", before_user, tail)
            answer = _said("assistant", before_answer, after_answer)
            yield from _with_system(text, start, before_user, [user, answer])


def _with_system(text: Text, start: str, before_user: str, roles: list[str]) -> Iterator[str]:
    """Go templates that agree on the turns, by what they do with a system prompt."""
    system = (_marked("system", 0), _marked("user", 1))
    if not takes(text, system):
        yield _go(start) + _loop(roles)
        return
    before, after, _ = _parts(text, "system", "user")
    after = after.removesuffix(before_user)
    # what comes first whoever speaks (BOS), and what stands there only when nobody gave a system prompt
    for cut in range(len(_shared(start, before)), -1, -1):
        own = _go(start[cut:])
        default = '{{ if ne (index .Messages 0).Role "system" }}' + own + "{{ end }}" if own else ""
        yield _go(start[:cut]) + default + _loop([_said("system", before[cut:], after), *roles])


def _folded(text: Text) -> Iterator[str]:
    """Llama 2: the system prompt stands inside the first question."""
    if not takes(text, (_marked("system", 0), _marked("user", 1))):
        return
    tail = _parts(text, "user")[1]
    before_system, after_system, *shown = _parts(text, "system", "user", "assistant", "user")
    before_user, to_answer, between, last = _parts(text, "user", "assistant", "user")
    plain = [to_answer, between, last]
    if shown != plain or last != tail or not to_answer.startswith(tail) or not between.endswith(before_user):
        return
    inside = _go(before_system.removeprefix(before_user)) + "{{ $.System }}" + _go(after_system)
    user = (
        '{{ if eq .Role "user" }}' + _go(before_user)
        + "{{ if and $.System (eq $i 1) }}" + inside + "{{ end }}{{ .Content }}" + _go(tail)
    )  # fmt: skip
    after_answer = between[: len(between) - len(before_user)]
    answer = _said("assistant", to_answer.removeprefix(tail), after_answer)
    yield _loop([user, answer], "$i, $m := .Messages")


def _loop(roles: Sequence[str], over: str = ".Messages") -> str:
    """Every message in the way of its role."""
    return (
        f"{{{{ range {over} }}}}"
        + "{{ else ".join(r.removeprefix("{{ ") if i else r for i, r in enumerate(roles))
        + "{{ end }}{{ end }}"
    )


def _said(role: str, before: str, after: str) -> str:
    return f'{{{{ if eq .Role "{role}" }}}}' + _go(before) + "{{ .Content }}" + _go(after)


def _parts(text: Text, *roles: Role) -> list[str]:
    """What the template writes around the contents of these turns, one piece more than there are turns."""
    shown = text([_marked(role, i) for i, role in enumerate(roles)])
    return (re.split(f"{MARK}[0-3]", shown) + [""] * 4)[: len(roles) + 1]


def _marked(role: Role, number: int) -> Message:
    return Message(role, f"{MARK}{number}")


def _shared(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _go(text: str) -> str:
    """Plain text of a Go template: as it stands, and quoted if it holds braces or what a Modelfile ends a
    text with."""
    if not text:
        return ""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if "{{" in text or '"""' in text else text


# --- rendering --------------------------------------------------------------------------------------------

_ACTION = re.compile(r'\{\{\s*((?:"(?:[^"\\]|\\.)*"|[^"])*?)\s*\}\}', re.DOTALL)


def render(template: str, messages: Sequence[Message]) -> str:
    """What Go's text/template writes, as Ollama calls it: ``.Messages`` (``.Role``, ``.Content``) and
    ``.System``, the system prompt.

    Raises ValueError for anything that isn't among the forms above.
    """
    tokens: list[str] = []
    at = 0
    for match in _ACTION.finditer(template):
        tokens += ["=" + template[at : match.start()], match[1]]
        at = match.end()
    tokens.append("=" + template[at:])
    system = "\n\n".join(m.text for m in messages if m.role == "system")
    dicts = [{"Role": m.role, "Content": m.text} for m in messages]
    root = {"Messages": dicts, "System": system}
    out: list[str] = []
    rest = _block(tokens, 0, root, {"$": root}, out)
    if rest != len(tokens):
        raise ValueError(f"unexpected {tokens[rest]!r}")
    return "".join(out)


def _block(tokens: Sequence[str], at: int, dot: object, names: Mapping[str, object], out: list[str]) -> int:
    """Render until ``end`` or ``else``; returns where that stands."""
    while at < len(tokens):
        token = tokens[at]
        if token.startswith("="):
            out.append(token[1:])
        elif token == "end" or token.startswith("else"):
            return at
        elif token.startswith("range "):
            at = _range(tokens, at, dot, names, out)
        elif token.startswith("if "):
            at = _if(tokens, at, dot, names, out)
        else:
            out.append(str(_value(token, dot, names)))
        at += 1
    return at


def _range(tokens: Sequence[str], at: int, dot: object, names: Mapping[str, object], out: list[str]) -> int:
    over = tokens[at].removeprefix("range ")
    variables, _, expression = over.rpartition(":=")
    items = _value(expression.strip(), dot, names)
    if not isinstance(items, list):
        raise ValueError(f"range over {expression!r}")
    for i, item in enumerate(items):  # pyright: ignore[reportUnknownArgumentType]
        bound = dict(zip((name.strip() for name in variables.split(",")), (i, item), strict=False))
        _block(tokens, at + 1, item, {**names, **bound}, out)
    return _skip(tokens, at + 1)


def _if(tokens: Sequence[str], at: int, dot: object, names: Mapping[str, object], out: list[str]) -> int:
    condition, done = tokens[at].removeprefix("if "), False
    while True:
        if not done and _value(condition, dot, names):
            at, done = _block(tokens, at + 1, dot, names, out), True
        else:
            at = _skip(tokens, at + 1)
        if at >= len(tokens):
            raise ValueError("an end is missing")
        if tokens[at] == "end":
            return at
        condition = tokens[at].removeprefix("else").strip().removeprefix("if ") or "true"


def _skip(tokens: Sequence[str], at: int) -> int:
    """Where the block that begins at ``at`` ends: its ``end`` or ``else``."""
    depth = 0
    for i, token in enumerate(tokens[at:], start=at):
        if token.startswith(("range ", "if ")):
            depth += 1
        elif depth == 0 and (token == "end" or token.startswith("else")):
            return i
        elif token == "end":
            depth -= 1
    raise ValueError("an end is missing")


def _value(expression: str, dot: object, names: Mapping[str, object]) -> object:
    parsed, rest = _parse(_words(expression), dot, names)
    if rest:
        raise ValueError(f"can't read {expression!r}")
    return parsed


def _words(expression: str) -> list[str]:
    return re.findall(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()"]+', expression)


def _parse(words: list[str], dot: object, names: Mapping[str, object]) -> tuple[object, list[str]]:
    """A call (``eq a b``) or one value."""
    if words and words[0] in ("eq", "ne", "and", "or", "index"):
        first, rest = _term(words[1:], dot, names)
        second, rest = _term(rest, dot, names)
        return _call(words[0], first, second), rest
    return _term(words, dot, names)


def _call(name: str, first: Any, second: Any) -> object:
    match name:
        case "eq":
            return first == second
        case "ne":
            return first != second
        case "and":
            return first and second
        case "or":
            return first or second
        case _:
            return first[second]


def _term(words: list[str], dot: object, names: Mapping[str, object]) -> tuple[object, list[str]]:
    if not words:
        raise ValueError("a value is missing")
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _parse(rest, dot, names)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket isn't closed")
        rest = rest[1:]
        if rest and rest[0].startswith("."):
            return _field(value, rest[0]), rest[1:]
        return value, rest
    if word.startswith('"'):
        return json.loads(word), rest
    if word.lstrip("-").isdigit():
        return int(word), rest
    if word == "true":
        return True, rest
    if word.startswith("$"):
        name, _, path = word.partition(".")
        return _field(names[name], f".{path}" if path else "."), rest
    if word.startswith("."):
        return _field(dot, word), rest
    raise ValueError(f"unknown word {word!r}")


def _field(value: object, path: str) -> object:
    for name in filter(None, path.split(".")):
        value = value[name]  # type: ignore[index]
    return value
