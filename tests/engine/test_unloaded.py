"""A machine on which llama.cpp's module can't be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.engine.process import Process, Setup
from sapwood.errors import ExportError


@pytest.mark.parametrize(
    ("why", "mend"),
    [
        ("libgomp.so.1: cannot open shared object file", "apt install libgomp1"),
        ("undefined symbol: llama_free", "--force-reinstall xllamacpp"),
    ],
)
def test_the_missing_library_is_named_and_how_to_get_it(
    why: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({why!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(ExportError) as caught:
        Process(Setup(tmp_path / "base.gguf", (), 64, 1, 1))
    (problem,) = caught.value.problems
    assert (problem.what, problem.where, problem.why) == ("llama.cpp can't be loaded", "xllamacpp", why)
    assert mend in problem.mend
