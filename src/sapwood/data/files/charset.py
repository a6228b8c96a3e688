"""What bytes that are not UTF-8 probably are: every reading that makes sense, with a line of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sapwood.data.problems import excerpt, printable
from sapwood.errors import Problem

BEFORE, BEHIND = 1 << 15, 1 << 17  # bytes around the first foreign one that are looked at
MOST = 1 << 15  # bytes of lines with foreign ones that are judged
CLEAR = 0.1  # a reading with so much more disorder than the best one is left out
SHOWN = 5  # readings that a question shows
# The best known of several names under which the bytes read the same.
_USUAL = (
    "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "cp1252", "iso8859-15", "cp1251",
    "koi8-r", "koi8-u", "cp1250", "iso8859-2", "mac_roman", "cp1253", "iso8859-7", "cp1254", "cp1255",
    "cp1256", "cp1257", "tis-620", "cp866", "cp437", "cp850",
)  # fmt: skip


class ForeignBytes(Exception):
    """Bytes of another encoding. offset: of the first in the file; line: where it stands; byte: its value."""

    def __init__(self, offset: int, line: int, byte: int) -> None:
        super().__init__(f"byte 0x{byte:02x} at {offset}")
        self.offset, self.line, self.byte = offset, line, byte


@dataclass(frozen=True, slots=True)
class Reading:
    """An encoding, and what the bytes are by it."""

    encoding: str
    text: str


def readings(raw: bytes) -> list[Reading]:
    """The encodings by which bytes may be text, the likeliest first; each reads them differently."""
    from charset_normalizer import from_bytes

    lines = [line for line in re.split(rb"[\r\n]+", raw) if re.search(rb"[\x80-\xff]", line)]
    judged = b"\n".join(lines)[:MOST] or raw[:MOST]
    found = list(from_bytes(judged, cp_isolation=[*_USUAL])) or list(from_bytes(judged))
    if not found:
        return []
    least = min(match.chaos for match in found)
    kept: dict[str, Reading] = {}
    for match in sorted(found, key=lambda one: (round(one.chaos, 2), -one.coherence)):
        text = str(match)
        if match.chaos - least <= CLEAR and text not in kept:
            kept[text] = Reading(_usual_name(judged, text, match.encoding), text)
    return [*kept.values()][:SHOWN]


def _usual_name(raw: bytes, text: str, name: str) -> str:
    for usual in _USUAL:
        try:
            if raw.decode(usual) == text:
                return usual
        except (UnicodeDecodeError, LookupError):
            continue
    return name


def foreign_problem(stream: BinaryIO, source: str, fault: ForeignBytes) -> Problem:
    """The question which encoding it is, with each answer ready to copy."""
    stream.seek(max(0, fault.offset - BEFORE))
    found = readings(stream.read(BEFORE + BEHIND))
    what = f"not UTF-8: byte 0x{fault.byte:02x} at offset {fault.offset:,}"
    where = f"{printable(source)}:{fault.line}"
    if not found:
        return Problem(
            what,
            where,
            "no usual encoding makes text of it",
            "say which it is, in the command: data.encoding=NAME",
        )
    told = "; ".join(f"as {one.encoding} it reads {sample(one.text, found)}" for one in found)
    if len(found) == 1:
        return Problem(
            what, where, told, f"if that is right, add to the command: data.encoding={found[0].encoding}"
        )
    answers = " or ".join(f"data.encoding={one.encoding}" for one in found)
    return Problem(what, where, told, f"add the right one to the command: {answers}")


def sample(text: str, found: Sequence[Reading]) -> str:
    """The piece of a line in which the readings differ, or the first that isn't ASCII."""
    others = [one.text for one in found if one.text != text]
    at = 0
    for i, char in enumerate(text):
        if char > "\x7f" and (not others or any(other[i : i + 1] != char for other in others)):
            at = i
            break
    begin = max(text.rfind("\n", 0, at) + 1, at - 12)
    return excerpt(text[begin:].split("\n", 1)[0], 40)
