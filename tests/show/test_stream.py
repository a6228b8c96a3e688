from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from sapwood.show.stream import SafeStream

WRITER = """
import sys
from sapwood.show.stream import SafeStream
out = SafeStream(sys.stdout)
for _ in range(2000):
    out.write("a line that is long enough to fill a pipe\\n" * 10)
    out.flush()
print("still printing")
sys.stderr.write(f"closed: {out.closed}")
"""


def test_a_reader_that_leaves_kills_nobody() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == "closed: True"
    assert writer.wait() == 0


def test_a_full_disk_behind_stdout_kills_nobody() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", WRITER], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "closed: True")


def test_a_stream_closed_from_within_is_left_alone() -> None:
    inner = io.StringIO()
    out = SafeStream(inner)
    inner.close()
    assert not out.isatty()
    assert out.write("text") == 4
    out.write("more")
    out.flush()
    assert out.closed


def test_what_the_encoding_lacks_is_escaped() -> None:
    buffer = io.BytesIO()
    out = SafeStream(io.TextIOWrapper(buffer, encoding="ascii"))
    out.write("树 ok")
    out.flush()
    assert buffer.getvalue() == rb"\u6811 ok"


def test_it_passes_on_what_it_writes_to() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as inner:
        out = SafeStream(inner)
        assert out.fileno() == writer
        assert not out.isatty()
        out.write("树\udc80")
        out.flush()
    assert os.read(reader, 100).decode() == "树\\udc80"
