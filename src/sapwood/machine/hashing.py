"""sha256 of files that may be large: it is said how much of them has been read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sapwood.machine.doing import bytes_of, doing

PIECE = 1 << 18  # bytes read at a time: more are no faster, and memory may be short


@contextmanager
def hashing(what: str, whole: int) -> Generator[Callable[[Path], str]]:
    """Say what the block does. It gives a function that reads a file and gives its sha256 as hex digits; the
    files have ``whole`` bytes together. The function raises OSError as reading does."""
    done = 0
    with doing(what) as far:

        def sha256(file: Path) -> str:
            nonlocal done
            digest = hashlib.sha256()
            with file.open("rb", buffering=0) as handle:
                while piece := handle.read(PIECE):
                    digest.update(piece)
                    done += len(piece)
                    far(bytes_of(done, whole))
            return digest.hexdigest()

        yield sha256
