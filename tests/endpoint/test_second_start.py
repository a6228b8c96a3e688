"""With all in the cache: nothing heavy is imported, nothing that changed is trusted, a sample is proven."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sapwood.endpoint.build import Opened, kept
from sapwood.serve.found import find_place
from tests.endpoint.ask import said
from tests.endpoint.serving import Running, make_adapter, running

START = """
import asyncio, sys
from pathlib import Path
from sapwood.endpoint.library import Library, Limits
from sapwood.endpoint.wanted import Wanted

async def main():
    library = Library(Path("runs"), Limits(2, 256))
    await library.start([Wanted(sys.argv[1])])
    await library.stop()
    print([name for name in ("torch", "peft", "safetensors", "transformers.models") if name in sys.modules])

asyncio.run(main())
"""


def opened(adapter: Path, base: Path | None = None) -> Opened | None:
    return kept(find_place(str(adapter), adapter, str(base) if base is not None else None))


def test_a_second_start_imports_no_torch(endpoint: Running, adapters: Path) -> None:
    command = [sys.executable, "-c", START, str(adapters / "first")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_another_base_of_the_same_content_is_found_and_a_changed_one_is_not(
    endpoint: Running, adapters: Path, base: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    found = opened(adapters / "second", other)
    assert found is not None and found.find().spec.source == str(other)
    for name in ("tokenizer.json", "config.json"):
        file, before = other / name, (other / name).read_text()
        file.write_text(before + "\n")
        assert opened(adapters / "second", other) is None
        file.write_text(before)
    assert opened(adapters / "second", other) is not None


def test_a_changed_adapter_is_not_what_the_cache_has(
    endpoint: Running, adapters: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(adapters / "second", tmp_path / "second"))
    assert opened(mine) is not None
    facts = json.loads((mine / "sapwood.json").read_text())
    (mine / "sapwood.json").write_text(json.dumps(facts | {"system": "You are a carpenter."}))
    assert opened(mine) is None


def test_what_the_cache_keeps_renders_as_what_was_trained(endpoint: Running, adapters: Path) -> None:
    from sapwood.serve.load import find_target

    found = opened(adapters / "second")
    assert found is not None
    again, first = found.find(), find_target(str(adapters / "second"), adapters)
    assert again.renderer.fingerprint == first.renderer.fingerprint
    assert (again.renderer.stop_ids, again.system) == (first.renderer.stop_ids, first.system)
    assert again.spec.fingerprint == first.spec.fingerprint and again.spec.source == first.spec.source


def test_a_later_start_proves_a_sample_and_all_where_it_doubts(
    base: Path, cache: Path, tmp_path: Path
) -> None:
    mine = make_adapter(base, tmp_path / "mine", 31)
    positions: list[int] = []

    def start() -> None:
        with running(mine) as up:
            verdict = up.library.find("mine").verdict
            assert verdict is not None and verdict.difference <= verdict.limit
            positions.append(verdict.positions)
            assert said(up.url, "mine") != said(up.url, str(base))

    start()
    start()
    found = opened(mine)
    assert found is not None and found.files is not None
    seen: dict[str, Any] = json.loads(found.files.seen.read_text())
    found.files.seen.write_text(json.dumps(seen | {"moved": [one * 10 for one in seen["moved"]]}))
    start()  # the sample finds it too near to the base
    found.files.seen.write_text("{")
    start()
    assert positions[1] == 3 < positions[0] == positions[2] == positions[3]
