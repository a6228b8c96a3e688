"""Whose turn it is, by the names that files use."""

from __future__ import annotations

from typing import Any

from sapwood.data.problems import excerpt, printable
from sapwood.data.shapes.record import DROP, Record
from sapwood.types import Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # what newer APIs call it
    "系统": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",  # Open Assistant
    "用户": "user",
    "客户": "user",
    "assistant": "assistant",
    "gpt": "assistant",  # ShareGPT and its kin
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "claude": "assistant",
    "gpt-4": "assistant",
    "gpt4": "assistant",
    "model": "assistant",  # Gemini, Gemma
    "助手": "assistant",
    "助理": "assistant",
    "机器人": "assistant",
    "客服": "assistant",
    "function_call": "assistant",  # its content is a call
    "tool_call": "assistant",  # ms-swift
    "tool_calls": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's former name
    "observation": "tool",
    "tool_response": "tool",  # ms-swift
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
    "function_result": "tool",
    "ipython": "tool",  # Llama
}
CALLS = ("function_call", "tool_call", "tool_calls")  # roles whose content is a call, or a list of calls


def role_of(record: Record, name: Any, path: str) -> Role:
    """The role that a name stands for, in any case; data.roles comes first."""
    folded = name.strip().casefold() if isinstance(name, str) else None
    if folded is not None:
        role = record.options.roles.get(folded) or ROLES.get(folded)
        if role is not None:
            return role
    if name is not None:  # else the fault is in the record already
        short = printable(folded[:40]) if folded else "NAME"
        first, *others = ("user", "assistant") if "[0]" in path else ("assistant", "user")
        others = ", ".join([*others, "system", "tool"])
        mend = f"say who it is: data.roles.{short}={first} (or {others}), or {DROP}"
        record.fault(f"'{path}' is no known role", f"found {excerpt(name)}", mend)
    return "user"
