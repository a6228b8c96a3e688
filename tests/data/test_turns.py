"""Lists of turns: keys of both styles, roles, order, tools and what is trained."""

from __future__ import annotations

from typing import Any

import pytest

from sapwood.config.sections import DataConfig
from sapwood.data.formats import to_conversation
from sapwood.data.shapes.record import Options
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
        Message("assistant", None, "hm", (CALL,), False),
        Message("tool", ""),
        Message("assistant", " a ", "so", (), True),
    )


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"train": False}, {"train": True}),
        ({"training": False}, {"training": True}),
        ({"loss": False}, {"loss": True}),
        ({"loss_mask": 0}, {"loss_mask": 1}),
        ({"weight": 0}, {"weight": 1.0}),
        ({"mask": True}, {"mask": False}),
        ({"weight": "0"}, {"weight": "1"}),
    ],
)
def test_marks_of_other_tools_say_which_turns_are_learnt(bad: dict[str, Any], good: dict[str, Any]) -> None:
    turns = [USER, {**ANSWER, **bad}, USER, {**ANSWER, **good}]
    assert [message.trained for message in convert(turns).messages] == [None, False, None, True]


def test_fractions_are_what_a_turn_counts() -> None:
    turns = [USER, {**ANSWER, "weight": 0.5}, USER, {**ANSWER, "weight": "2", "train": True}, USER]
    marked = [(message.trained, message.weight) for message in convert([*turns, ANSWER]).messages]
    assert marked == [(None, None), (True, 0.5), (None, None), (True, 2), (None, None), (None, None)]


def test_a_mark_that_hides_no_user_turn_does_not_make_it_learnt() -> None:
    turns = [{**USER, "weight": 1.0}, {**ANSWER, "weight": 1.0}, {**USER, "mask": False}, ANSWER]
    assert [message.trained for message in convert(turns).messages] == [None, True, None, None]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({**ANSWER, "train": "no"}, "'messages[1].train' is not true or false · rows.json:2 · found \"no\""),
        ({**ANSWER, "weight": -0.5}, "'messages[1].weight' is no weight"),
        ({**ANSWER, "weight": -0.5}, "data.ignore=weight lets each count 1"),
        ({**ANSWER, "weight": 0.5, "loss": 0.25}, "the marks of 'messages[1]' contradict each other"),
        ({**ANSWER, "weight": 0.5, "train": False}, "the marks of 'messages[1]' contradict each other"),
        ({**ANSWER, "mask": 0.5}, "'messages[1].mask' is not true or false"),
        ({**ANSWER, "weight": 0, "train": True}, "the marks of 'messages[1]' contradict each other"),
        ({**USER, "train": True}, "'messages[1].train' is true on a turn of the user"),
        ({**ANSWER, "reasoning": "a", "reasoning_content": "b"}, "two different reasonings"),
        ({**ANSWER, "reasoning": {}}, "'messages[1].reasoning' is an object"),
        ({**ANSWER, "tool_calls": {}}, "'messages[1].tool_calls' is an object, not a list"),
        ({**ANSWER, "tool_calls": [{"type": "function"}]}, "'messages[1].tool_calls[0]' names no function"),
        ({**ANSWER, "tool_calls": ["f"]}, "'messages[1].tool_calls[0]' names no function"),
        ({"role": "assistant"}, "'messages[1].content' is missing · rows.json:2 · add 'content'"),
        ({"rolle": "assistant", "content": "a"}, "rename 'rolle' to 'role'"),
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
    [([], "'messages' is empty"), ("a", "'messages' is text that is not JSON"), (None, "is null")],
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
    ("tools", "words"), [({}, "not a list"), (["f"], "text that is not"), ("[{]", "text that is not")]
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
    assert messages[2].content is None


def test_conversations_with_the_keys_of_messages_are_read() -> None:
    assert sharegpt([USER, ANSWER]).messages == convert([USER, ANSWER]).messages


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"from": "bat", "value": "a"}, "'conversations[1].from' is no known role"),
        ({"from": "gpt", "worth": "a"}, "'conversations[1].value' is missing"),
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
        "user assistant assistant",
        "user assistant system user assistant",
        "user system assistant",
    ],
)
def test_good_orders_are_read(names: str) -> None:
    assert len(convert(by_role(names)).messages) == len(names.split())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("user", "last turn is user, not assistant"),
        ("system", "last turn is system, not assistant"),
        ("user user assistant", "two user turns in a row, the second at 'messages[1]'"),
        ("assistant user assistant", "the assistant speaks first, at 'messages[0]'"),
        ("system assistant", "the assistant speaks first, at 'messages[1]'"),
        ("user tool assistant", "tool result at 'messages[1]' without an assistant turn before it"),
    ],
)
def test_bad_order_is_refused_with_the_turn(names: str, words: str) -> None:
    assert words in refuse(by_role(names))


@pytest.mark.parametrize("behind", ["user", "tool", "user system", "tool user"])
def test_turns_behind_the_last_answer_are_left_out(behind: str) -> None:
    turns = by_role(f"user assistant {behind}")
    assert convert(turns).messages == convert(turns[:2]).messages


def test_two_system_turns_in_a_row_are_refused() -> None:
    assert "second system turn at 'messages[1]'" in refuse(by_role("system system user assistant"))


@pytest.mark.parametrize("name", ["User", "human", "PROMPTER", " user "])
def test_roles_go_by_many_names(name: str) -> None:
    assert convert([{"role": name, "content": "q"}, ANSWER]).messages[0] == Message("user", "q")


def test_roles_of_the_config_come_first() -> None:
    row = Row(RowId("rows.json", 0, 2), {"messages": [{"role": "Guest", "content": "q"}, ANSWER]})
    options = Options.of(DataConfig(train=("x",), roles={"guest": "user"}))
    assert to_conversation(row, "messages", options=options).messages[0] == Message("user", "q")


@pytest.mark.parametrize(("role", "mend"), [("bat", "data.roles.bat=user"), (3, "found 3")])
def test_unknown_role_is_refused(role: Any, mend: str) -> None:
    message = refuse([{"role": role, "content": "q"}, ANSWER])
    assert message.startswith("'messages[0].role' is no known role · rows.json:2")
    assert mend in message
