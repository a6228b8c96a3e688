"""How a template takes calls of tools, asked of the template itself; and conversations put into that form.

Data write two things in two ways each, and templates differ in which of them they can read: a call's
arguments (an object, or the JSON of one as text), and the content of a turn that only calls (null, or "").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from sapwood.types import Conversation, Message

NAME, KEY, VALUE = "zqname", "zqkey", "zqvalue"
TEXT = json.dumps({KEY: VALUE})
REPR = repr({KEY: VALUE})[:6]  # Python's own spelling, if a template writes an object by no filter
CONTENT = "zqcontent"

Content = str | None
Render = Callable[[tuple[Message, ...]], str | None]  # None if the template refuses


@dataclass(frozen=True, slots=True)
class Form:
    """arguments: the form of a call's arguments that the template writes as JSON; None if it takes neither
    form. empty: the empty contents (null, "") of a turn that only calls, with which the template writes the
    calls."""

    arguments: Literal["object", "text"] | None
    empty: tuple[Content, ...]

    @classmethod
    def of(cls, render: Render) -> Form:
        """Ask a template."""
        for behind in ((Message("tool", "7", name=NAME, tool_call_id="zqcall001"), _SAID), ()):
            objects = _seen(render, {KEY: VALUE}, behind, lambda text: KEY in text and REPR not in text)
            texts = _seen(render, TEXT, behind, lambda text: TEXT in text)
            if objects or texts:
                return cls("object" if objects else "text", objects or texts)
        return cls(None, ())


_SAID = Message("assistant", CONTENT)


def fitted(conversation: Conversation, form: Callable[[], Form]) -> Conversation:
    """The conversation with its calls as the template takes them; itself if nothing is to change."""
    if not any(message.tool_calls for message in conversation.messages):
        return conversation
    known = form()
    messages = tuple(_fitted(message, known) for message in conversation.messages)
    return replace(conversation, messages=messages) if messages != conversation.messages else conversation


def refitted(before: Conversation, after: Conversation) -> str | None:
    """What `fitted` did with the arguments of calls, in words; None if they stayed as they were."""
    if before is after:
        return None
    for old, new in zip(_arguments(before), _arguments(after), strict=True):
        if isinstance(old, str) and isinstance(new, Mapping):
            return "have calls with arguments as JSON text: parsed into the objects that the template writes"
        if isinstance(old, Mapping) and isinstance(new, str):
            return (
                "have calls with arguments as objects: given to the template as the JSON text that it takes"
            )
    return None


def _arguments(conversation: Conversation) -> list[Any]:
    return [arguments_of(call) for message in conversation.messages for call in message.tool_calls]


def arguments_of(call: Mapping[str, Any]) -> Any:
    """The arguments of a call, in either layout of a call."""
    return _function(call).get("arguments")


def name_of(call: Mapping[str, Any]) -> str:
    return str(_function(call).get("name", ""))


def parsed(arguments: Any) -> Any:
    """Arguments as an object. A text is read as JSON; null and blank text become an empty object; anything
    else stays as it is."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if not isinstance(arguments, str) or not arguments.lstrip().startswith("{"):
        return arguments
    try:
        return json.loads(arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return arguments


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _seen(
    render: Render, arguments: Any, behind: tuple[Message, ...], right: Callable[[str], bool]
) -> tuple[Content, ...]:
    """The empty contents beside which a call with these arguments is written, and rightly."""

    def ask(content: Content) -> str | None:
        call = {"id": "zqcall001", "type": "function", "function": {"name": NAME, "arguments": arguments}}
        return render((Message("user", "1"), Message("assistant", content, tool_calls=(call,)), *behind))

    spoken = ask(CONTENT) or ""
    found = [(content, ask(content)) for content in (None, "")]
    return tuple(
        content
        for content, text in found
        if text is not None
        and NAME in text
        and VALUE in text
        and right(text)
        and text.count("None") <= spoken.count("None")
    )


def _fitted(message: Message, form: Form) -> Message:
    if not message.tool_calls:
        return message
    calls = tuple(_with_arguments(call, form) for call in message.tool_calls)
    content = message.content
    if not content and content not in form.empty:
        content = form.empty[0] if form.empty else ""  # otherwise no call is written, which the proof finds
    return replace(message, content=content, tool_calls=calls)


def _with_arguments(call: Mapping[str, Any], form: Form) -> Mapping[str, Any]:
    given = arguments_of(call)
    wanted = given
    if form.arguments == "object":
        wanted = parsed(given)
    elif form.arguments == "text" and (isinstance(given, Mapping) or parsed(given) == {}):
        wanted = json.dumps(parsed(given), ensure_ascii=False)
    if wanted is given:
        return call
    function = {**_function(call), "arguments": wanted}
    return {**call, "function": function} if "function" in call else function


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = call.get("function", call)
    return cast(Mapping[str, Any], inner) if isinstance(inner, Mapping) else {}
