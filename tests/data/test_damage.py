"""Files with random damage are read or refused with a clean message: never a traceback, never a hang.

SAPWOOD_PROOF_CASES=10000 (`make proof`) asks for so many files; the normal suite damages 2,000.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from sapwood.config.sections import DataConfig
from sapwood.data.formats import read_conversations
from sapwood.data.problems import printable
from sapwood.errors import DataError

ALPACA = (
    b'{"instruction": "a\\n", "input": "", "output": "\xe7\x9a\x87"}\n{"instruction": "c", "output": "d"}\r\n'
)
PAIRS = b'[\n {"prompt": "a", "completion": "\\ud83d\\ude00"},\n {"prompt": "1", "completion": "2"}]\n'
CALLS = (
    b'{"data": [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null, '
    b'"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1e3}}}]}]}], "n": -1}'
)
TABLE = b'instruction,output\n"a, ""b""\nc",d\ne,f\n'
TURNS = (
    b'\xef\xbb\xbf{"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": '
    b'"{\\"name\\": \\"f\\"}"}, {"from": "observation", "value": ""}, {"from": "gpt", "value": "b"}]}'
)
FILES = {
    "alpaca.jsonl": ALPACA * 3,
    "pairs.json": PAIRS,
    "calls.json": CALLS,
    "table.csv": TABLE,
    "turns.jsonl": TURNS,
}
DAMAGED = -(-int(os.environ.get("SAPWOOD_PROOF_CASES", "2000")) // len(FILES))  # of each file
HANG = 5.0  # seconds of processor time
PIECES = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b",",
        b":",
        b";;;",
        b"[[[[[[[[",
        b"null",
        b"NaN",
        b"1e999",
        b"\\ud800",
    ),
    *(b"\n", b"\r", b"\0", b"\xff", b"\x1b[31m", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"\x80\x04", b"9" * 5000),
)


def damage(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(content) + 1)
        stop = min(len(content), start + draw.choice((0, 0, 1, 1, 2, 30)))
        put = draw.choice((b"", *PIECES, content[start:stop] * 2, bytes([draw.randrange(256)])))
        content = content[:start] + put + content[stop:]
    return content


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    config = DataConfig(train=(name,))
    (tmp_path / name).write_bytes(FILES[name])
    assert list(read_conversations(config, root=tmp_path))
    draw = random.Random(name)
    refused = 0
    for _ in range(DAMAGED):
        (tmp_path / name).write_bytes(damage(FILES[name], draw))
        started = time.process_time()
        try:
            list(read_conversations(config, root=tmp_path))
        except DataError as error:
            refused += 1
            lines = str(error).split("\n")
            assert lines == [printable(line) for line in lines]
        assert time.process_time() - started < HANG
    assert DAMAGED // 4 < refused < DAMAGED
