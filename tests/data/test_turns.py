"""Lists of turns: keys of both styles, roles, order, tools and what is trained."""

from __future__ import annotations

from typing import Any

import pytest

from sapwood.data.formats import to_conversation
from sapwood.errors import DataError
from sapwood.types import Conversation, Message, Row, RowId

CALL = {"type": "function", "function": {"name": "water", "arguments": {"litres": 2}}}
USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def convert(turns: Any, **row: Any) -> Conversation:
    return to_conversation(Row(RowId("rows.json", 0, 2), {"messages": turns, **row}), "messages", system=None)


def sharegpt(turns: Any, **row: Any) -> Conversation:
    value = {"conversations": turns, **row}
    return to_conversation(Row(RowId("rows.json", 0, 2), value), "sharegpt", system=None)


def refuse(turns: Any, **row: Any) -> str:
    with pytest.raises(DataError) as caught:
        convert(turns, **row)
    return str(caught.value)


def by_role(names: str) -> list[dict[str, str]]:
    return [{"role": name, "content": f"{name} {index}"} for index, name in enumerate(names.split())]


# --- keys ---------------------------------------------------------------------------------------------------


def test_every_key_of_a_turn_is_read() -> None:
    turns = [
        {"role": "system", "content": ""},
        {**USER, "train": False},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CALL], "train": False},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": " a ", "reasoning_content": "so", "train": True},
    ]
    assert convert(turns).messages == (
        Message("system", ""),
        Message("user", "q", trained=False),
        Message("assistant", "", "hm", (CALL,), False),
        Message("tool", ""),
        Message("assistant", " a ", "so", (), True),
    )


def test_weight_is_read_as_train() -> None:
    turns = [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]
    assert [message.trained for message in convert(turns).messages] == [None, False, None, True]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({**ANSWER, "train": 1}, "'messages[1].train' is not true or false · rows.json:2 · found 1"),
        ({**ANSWER, "weight": 0.5}, "'messages[1].weight' is not 0 or 1"),
        ({**ANSWER, "weight": True}, "'messages[1].weight' is not 0 or 1"),
        ({**ANSWER, "weight": 0, "train": True}, "'messages[1].weight' is not 0 or 1"),
        ({**USER, "train": True}, "'messages[1].train' is true on a turn of the user"),
        ({**ANSWER, "reasoning": "a", "reasoning_content": "b"}, "two different reasonings"),
        ({**ANSWER, "reasoning": 3}, "'messages[1].reasoning' is a number"),
        ({**ANSWER, "tool_calls": {}}, "'messages[1].tool_calls' is an object, not a list"),
        ({**ANSWER, "tool_calls": [{"type": "function"}]}, "'messages[1].tool_calls[0]' names no function"),
        ({**ANSWER, "tool_calls": ["f"]}, "'messages[1].tool_calls[0]' names no function"),
        ({"role": "assistant"}, "'messages[1].content' is missing · rows.json:2 · add 'content'"),
        ({"Role": "assistant", "content": "a"}, "rename 'Role' to 'role'"),
        ({"role": "assistant", "content": None}, "'messages[1].content' is null"),
        ({"role": "assistant", "content": " "}, "'messages[1].content' is empty"),
        ({"role": None, "content": "a"}, "'messages[1].role' is null"),
        ("a", "'messages[1]' is text, not a turn"),
    ],
)
def test_bad_turn_is_refused(turn: Any, words: str) -> None:
    assert words in refuse([USER, turn])


@pytest.mark.parametrize(
    ("turns", "words"),
    [([], "'messages' is empty"), ("a", "'messages' is text, not a list"), (None, "is null")],
)
def test_turns_that_are_no_list_are_refused(turns: Any, words: str) -> None:
    assert words in refuse(turns)


# --- tools --------------------------------------------------------------------------------------------------


def test_tools_are_read_as_objects_or_as_their_json() -> None:
    tool = {"type": "function", "function": {"name": "water"}}
    assert convert([USER, ANSWER], tools=[tool]).tools == (tool,)
    assert convert([USER, ANSWER], tools='[{"type": "function", "function": {"name": "water"}}]').tools == (
        tool,
    )
    assert convert([USER, ANSWER], tools="").tools == ()
    assert convert([USER, ANSWER], tools=None).tools == ()


@pytest.mark.parametrize(
    ("tools", "words"), [({}, "not a list"), (["f"], "not a list"), ("[{]", "text that is not")]
)
def test_bad_tools_are_refused(tools: Any, words: str) -> None:
    assert words in refuse([USER, ANSWER], tools=tools)


# --- ShareGPT -----------------------------------------------------------------------------------------------


def test_sharegpt_roles_are_mapped() -> None:
    call = '{"name": "water", "arguments": {"litres": 2}}'
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": "done"},
        {"from": "gpt", "value": "a"},
        {"from": "user", "value": "q"},
        {"from": "function_call", "value": f"[{call}, {call}]"},
        {"from": "tool", "value": "done"},
        {"from": "assistant", "value": "a"},
    ]
    messages = sharegpt(turns, tools="[]").messages
    assert (
        " ".join(m.role for m in messages)
        == "system user assistant tool assistant user assistant tool assistant"
    )
    assert messages[2].tool_calls == (CALL,)
    assert messages[6].tool_calls == (CALL, CALL)
    assert messages[2].content == ""


def test_conversations_with_the_keys_of_messages_are_read() -> None:
    assert sharegpt([USER, ANSWER]).messages == convert([USER, ANSWER]).messages


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"from": "bot", "value": "a"}, "'conversations[1].from' is no known role"),
        ({"from": "gpt", "content": "a"}, "'conversations[1].value' is missing"),
        ({"from": "function_call", "value": "water()"}, "'conversations[1].value' is text that is not JSON"),
        ({"from": "function_call", "value": "[1]"}, "names no function"),
        ({"from": "function_call", "value": " "}, "'conversations[1].value' is empty"),
    ],
)
def test_bad_sharegpt_turn_is_refused(turn: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        sharegpt([{"from": "human", "value": "q"}, turn])
    assert words in str(caught.value)


def test_system_beside_the_turns_comes_first() -> None:
    assert convert([USER, ANSWER], system="s").messages[0] == Message("system", "s")
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert sharegpt(turns, system="s").messages[0] == Message("system", "s")
    assert sharegpt(turns, system="").messages[0] == Message("user", "q")
    assert "two system prompts" in refuse(by_role("system user assistant"), system="s")


# --- roles and order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        "user assistant",
        "developer user assistant user assistant",
        "user assistant tool tool assistant",
        "user assistant tool user assistant",
    ],
)
def test_good_orders_are_read(names: str) -> None:
    assert len(convert(by_role(names)).messages) == len(names.split())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("user", "last turn is user, not assistant"),
        ("user assistant user", "last turn is user, not assistant"),
        ("user assistant tool", "last turn is tool, not assistant"),
        ("system", "last turn is system, not assistant"),
        ("user user assistant", "two user turns in a row, the second at 'messages[1]'"),
        ("user assistant assistant", "two assistant turns in a row, the second at 'messages[2]'"),
        ("assistant user assistant", "the assistant speaks first, at 'messages[0]'"),
        ("system assistant", "the assistant speaks first, at 'messages[1]'"),
        ("user tool assistant", "tool result at 'messages[1]' without an assistant turn before it"),
    ],
)
def test_d37_bad_order_is_refused_with_the_turn(names: str, words: str) -> None:
    assert words in refuse(by_role(names))


def test_d38_system_in_the_middle_or_twice_is_refused() -> None:
    assert "system turn at 'messages[2]' is not the first" in refuse(
        by_role("user assistant system user assistant")
    )
    assert "second system turn at 'messages[1]'" in refuse(by_role("system system user assistant"))


@pytest.mark.parametrize(
    ("role", "mend"),
    [("bot", "roles: system"), ("gpt", "write 'assistant'"), ("User", "write 'user'"), (3, "found 3")],
)
def test_d39_unknown_role_is_refused(role: Any, mend: str) -> None:
    message = refuse([{"role": role, "content": "q"}, ANSWER])
    assert message.startswith("'messages[0].role' is no known role · rows.json:2")
    assert mend in message
