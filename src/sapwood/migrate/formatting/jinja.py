"""A template written out of a text's parts: the first column is the user's turn, the second (if there is
one) goes by the system role, the last is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sapwood.migrate.script.values import Field, Part, Special

_HEAD = "{%- set extra = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}\n"
_LOOP = """\
{{%- for message in messages %}}
{{%- if message['role'] == 'user' %}}
{{{{- {user} }}}}
{{%- elif message['role'] == 'assistant' %}}
{{{{- {answer} }}}}
{{%- endif %}}
{{%- endfor %}}"""
_END = re.compile(r"(?:</s>|<\|(?:im_end|end|eot_id|endoftext)\|>|<end_of_turn>)$")
_TOKENS = {"eos": "eos_token", "bos": "bos_token", "pad": "pad_token"}


def write_template(parts: Sequence[Part], prompt: Sequence[Field], answer: Field) -> str:
    at = max(i for i, part in enumerate(parts) if part == answer)
    names = dict(zip(prompt, ("message['content']", "extra"), strict=False))
    user = _expression(parts[:at], names)
    after = [
        part for part in parts[at + 1 :] if not (isinstance(part, Special) and part.name in ("pad", "eos"))
    ]
    end = _expression(after, names)
    if not (after and isinstance(after[-1], str) and _END.search(after[-1].rstrip())):
        end = "eos_token" if end == "''" else f"{end} + eos_token"
    return _HEAD + _LOOP.format(user=user, answer=f"message['content'] + {end}")


def optional(both: str, one: str) -> str:
    """`both` if the second column is filled, `one` if it is empty."""
    if not one or one == both or "extra" not in both:
        return both
    with_it, without = _user_line(both), _user_line(one)
    return both.replace(f"{{{{- {with_it} }}}}", f"{{{{- ({with_it}) if extra else ({without}) }}}}", 1)


def _user_line(template: str) -> str:
    lines = template.splitlines()
    at = next(i for i, line in enumerate(lines) if "'user'" in line)
    return lines[at + 1].removeprefix("{{- ").removesuffix(" }}")


def _expression(parts: Sequence[Part], names: Mapping[Field, str]) -> str:
    return " + ".join(_term(part, names) for part in parts) or "''"


def _term(part: Part, names: Mapping[Field, str]) -> str:
    if isinstance(part, Field):
        return names.get(part, "''")
    if isinstance(part, Special):
        return _TOKENS.get(part.name, quoted(part.name))
    return quoted(part if isinstance(part, str) else "")


def quoted(text: str) -> str:
    """A Jinja string; what isn't ASCII stays readable."""
    escaped = (
        text.replace("\\", "\\\\")
        .replace("'", "\\'")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )
    return f"'{escaped}'"
