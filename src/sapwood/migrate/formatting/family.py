"""Text in parts to a family and its columns.

The text is compared as a string in which each column is one private character and each special token another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sapwood.migrate.formatting.jinja import write_template
from sapwood.migrate.formatting.learning import SHAPES, Learning, Shape
from sapwood.migrate.script.values import Field, Part, Special, Text, Unknown, dotted, joined

FIRST, ROLES = 0xE000, {"eos": "\ue100", "pad": "\ue101", "bos": "\ue102", "unk": "\ue103"}
_DATED = re.compile(r"\ACutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n\n")  # Llama 3.1's own begin
_FIELD = "[\ue000-\ue0ff]"


def set_columns(learning: Learning, user: Text, answer: Text) -> None:
    """Columns of a prompt and an answer, if they are columns and nothing else."""
    fields = [part for part in user.parts if isinstance(part, Field)]
    literals = "".join(part for part in user.parts if isinstance(part, str))
    others = [part for part in user.parts if not isinstance(part, (Field, str))]
    answers = [part for part in answer.parts if isinstance(part, Field)]
    learning.prompt_line = learning.prompt_line or user.line
    learning.answer_line = learning.answer_line or answer.line
    if (
        others
        or len(answers) != 1
        or len(answer.parts) != 1
        or not fields
        or len(fields) > 2
        or literals.strip()
    ):
        bad = user if others or literals.strip() or not fields or len(fields) > 2 else answer
        learning.resists.append((bad.line or learning.line, quote(bad) or "a turn without a column"))
    if fields and answers:
        _name_columns(learning, fields[:2], answers[-1])


def _name_columns(learning: Learning, fields: Sequence[Field], answer: Field) -> None:
    if "conversations" in answer.path or "messages" in answer.path or "conversation" in answer.path:
        learning.form = "sharegpt" if "value" in answer.path else "messages"
        if answer.name not in ("conversations", "messages"):
            learning.columns[{"sharegpt": "conversations"}.get(learning.form, "messages")] = answer.name
        else:
            learning.columns.setdefault(answer.name, answer.name)
        return
    if len(fields) == 2:
        learning.columns |= {"instruction": fields[0].name, "input": fields[1].name, "output": answer.name}
    elif (fields[0].name, answer.name) in (("instruction", "output"), ("input", "output")):
        learning.columns |= {fields[0].name: fields[0].name, "output": "output"}
    else:
        learning.columns |= {"prompt": fields[0].name, "completion": answer.name}


def quote(text: Text) -> str:
    return "".join(part if isinstance(part, str) else f"{{{_shown(part)}}}" for part in text.parts)[:300]


def _shown(part: Part) -> str:
    return ".".join(part.path) if isinstance(part, Field) else dotted(part)


# --- text to family ---------------------------------------------------------------------------------------


def read_parts(learning: Learning, parts: list[Part], lines: list[int]) -> None:
    unknown = next((part for part in parts if isinstance(part, Unknown)), None)
    if unknown is not None:
        learning.resists.append((unknown.line or learning.line, unknown.text))
    fields = [part for part in parts if isinstance(part, Field)]
    text = "".join(_letter(part, fields) for part in parts)
    known = [name for name, shape in SHAPES.items() if shape.needs in text]
    if "glm" not in learning.model and not any(
        isinstance(p, Special) and p.name == "<|user|>" for p in parts
    ):
        known = [name for name in known if name != "chatglm3"]  # other families also write these marks
    at = max((i for i, part in enumerate(parts) if isinstance(part, Field)), default=-1)
    if at >= 0:
        learning.end = joined(iter(parts[at + 1 :])).parts
        learning.answer_line = lines[at]
        learning.end_line = lines[at + 1] if at + 1 < len(lines) else lines[at]
        learning.prompt_line = next(
            (n for part, n in zip(parts, lines, strict=True) if isinstance(part, Field)), 0
        )
    learning.begins = text[:60]
    if known and fields:
        _of_family(learning, known[0], text, fields, parts, lines)
    if not learning.columns:
        _of_literals(learning, parts, fields, lines)


def _letter(part: Part, fields: list[Field]) -> str:
    if isinstance(part, Field):
        return chr(FIRST + min(fields.index(part), 255))
    if isinstance(part, Special):
        return ROLES.get(part.name, part.name)
    return part if isinstance(part, str) else "\ue1ff"


def _of_family(
    learning: Learning, name: str, text: str, fields: list[Field], parts: list[Part], lines: list[int]
) -> None:
    shape = SHAPES[name]
    squeezed = [re.escape(piece.strip()) for piece in (shape.user, shape.between)]
    match = re.search(
        rf"(?P<head>.*?){squeezed[0]}(?P<user>.*?)"
        + re.sub(r"(?:\\\n|\n)+", r"\\s*", squeezed[1])
        + rf"\s*(?P<answer>{_FIELD})",
        text,
        re.DOTALL,
    )
    if match is None:
        return
    learning.family = name
    head, user = match["head"], match["user"].strip()
    system = _system(learning, shape, name, head, match["user"], fields, parts, lines)
    if name == "llama-2-chat" and "<</SYS>>" in user:
        user = user.partition("<</SYS>>")[2].strip()
    expected = (shape.system.format(system) if system is not None and shape.system else "") + shape.user
    if name == "llama-2-chat" and system is not None:
        expected += f"<<SYS>>\n{system}\n<</SYS>>\n\n"
    expected += user + shape.between + match["answer"]
    found = text[: match.end()]
    for bos in (shape.bos, ROLES["bos"], "[gMASK]sop", "<s>"):
        found = found.removeprefix(bos) if bos else found
    if found.lstrip() != expected:
        learning.differs = (_plain(expected, fields), _plain(found, fields))
    user_parts = joined(fields[ord(c) - FIRST] if FIRST <= ord(c) < FIRST + 256 else c for c in user)
    learning.glued = _glued(user_parts)
    kept = [p for p in user_parts.parts if isinstance(p, Field)]
    literal = "".join(p for p in user_parts.parts if isinstance(p, str))
    if kept and len(kept) <= 2 and not literal.strip():
        _name_columns(learning, kept, fields[ord(match["answer"]) - FIRST])
    else:
        learning.family = "" if kept else name


def _system(
    learning: Learning,
    shape: Shape,
    name: str,
    head: str,
    user: str,
    fields: list[Field],
    parts: list[Part],
    lines: list[int],
) -> str | None:
    if name == "llama-2-chat":
        match = re.search(r"<<SYS>>\s*(.*?)\s*<</SYS>>", user, re.DOTALL)
    elif shape.system:
        before, _, after = shape.system.partition("{}")
        match = re.search(
            re.escape(before.strip()) + r"\s*(.*?)\s*" + (re.escape(after.strip()) or "$"), head, re.DOTALL
        )
    else:
        match = None
    if match is None:
        return None
    inner = match[1]
    if re.fullmatch(_FIELD, inner):
        learning.columns["system"] = fields[ord(inner) - FIRST].name
    elif not re.search("[\ue000-\ue1ff]", inner):
        dated = name == "llama-3" and re.search(r"llama.?3[._-]+[123]", learning.model)
        learning.system = _DATED.sub("", inner) if dated else inner
        learning.system_line = learning.prompt_line
        for part, line in zip(parts, lines, strict=True):
            if isinstance(part, str) and inner in part:
                learning.system_line = line
                break
    return inner


def _glued(text: Text) -> bool:
    """Whether a text has two columns with nothing between them."""
    pairs = zip(text.parts, text.parts[1:], strict=False)
    return any(isinstance(a, Field) and isinstance(b, Field) for a, b in pairs)


def _plain(text: str, fields: list[Field]) -> str:
    names = {value: f"<{name}>" for name, value in ROLES.items()}
    return "".join(
        "{" + fields[ord(c) - FIRST].name + "}" if FIRST <= ord(c) < FIRST + 256 else names.get(c, c)
        for c in text
    )


def _of_literals(learning: Learning, parts: list[Part], fields: list[Field], lines: list[int]) -> None:
    """A text of no known family: columns by their order, and a template that writes the same."""
    distinct = list(dict.fromkeys(fields))
    if len(distinct) < 2:
        if distinct and len(parts) == 1 and not learning.columns:
            learning.columns["text"] = distinct[0].name
        return
    if len(distinct) > 3 or any(isinstance(part, Unknown) for part in parts):
        learning.resists.append((learning.prompt_line or learning.line, quote(Text(tuple(parts)))))
    prompt, answer = distinct[: min(len(distinct) - 1, 2)], distinct[-1]
    learning.glued = _glued(Text(tuple(parts)))
    if len(prompt) == 2 and (merged := _merged(parts, prompt)) is not None:
        parts = merged
        learning.columns |= {"instruction": prompt[0].name, "input": prompt[1].name, "output": answer.name}
        prompt = prompt[:1]
    else:
        learning.columns |= {"prompt": prompt[0].name, "completion": answer.name}
        if len(prompt) == 2:
            learning.columns["system"] = prompt[1].name
    if len(distinct) <= 3:
        learning.jinja = write_template(parts, prompt, answer)


def _merged(parts: list[Part], prompt: list[Field]) -> list[Part] | None:
    """The parts without the second of two neighbouring columns: sapwood joins rows of that shape by a line
    break."""
    first, second = parts.index(prompt[0]), parts.index(prompt[1])
    between = parts[first + 1 : second]
    if any(not isinstance(part, str) or part.strip() for part in between) or second < first:
        return None
    return [*parts[: first + 1], *parts[second + 1 :]]
