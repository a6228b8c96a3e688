"""How busy others are, what takes long, and measurements that are made again when the machine is idle."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sapwood.machine import hashing as hashing_module
from sapwood.machine import measure
from sapwood.machine.bars import told_bars
from sapwood.machine.device import CPU
from sapwood.machine.doing import Patient, counted, doing, told_to
from sapwood.machine.hashing import hashing
from sapwood.machine.load import LoadMeter, load_now
from sapwood.machine.remembered import remembered

BURN = "import time; until = time.monotonic() + 20\nwhile time.monotonic() < until: pass"


def test_the_time_that_others_take_is_seen_and_our_own_is_not() -> None:
    other = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        time.sleep(0.3)
        beside = load_now(0.5)
    finally:
        other.kill()
        other.wait()
    assert 0.1 < beside <= 1
    before = LoadMeter(0.0, 0.0, time.monotonic() - 1e9)
    assert before.share() < 0.01


def test_a_measurement_on_a_busy_machine_is_made_again_once_it_is_idle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAPWOOD_CACHE", str(tmp_path))  # where nothing is remembered
    load = {"then": 0.6, "now": 0.5}
    monkeypatch.setattr(measure, "MOMENT", 0.0)  # a fast machine has measured before the meter knows anything
    monkeypatch.setattr(LoadMeter, "share", lambda self: load["then"])
    monkeypatch.setattr(measure, "load_now", lambda: load["now"])
    caches = (
        measure.machine_facts,
        measure.product_rates,
        measure.fastest_threads,
        measure._rates,
        remembered,
    )
    for known in caches:
        known.cache_clear()
    try:
        assert measure.machine_facts(CPU)["load"] == 0.6
        assert measure.measured_busy(CPU)
        assert not measure.measure_when_idle(CPU), "it still is busy"
        load.update(then=0.0, now=0.0)
        assert measure.machine_facts(CPU)["load"] == 0.6, "nobody measured again"
        assert measure.measure_when_idle(CPU)
        assert measure.machine_facts(CPU)["load"] == 0.0
        assert not measure.measure_when_idle(CPU), "once is enough"
    finally:
        for known in caches:
            known.cache_clear()


def test_nobody_is_told_what_nobody_wants_to_hear() -> None:
    with doing("loading") as far:
        far("1/2")
    assert list(counted("counting", [1, 2])) == [1, 2]


def test_what_is_done_and_how_far_it_is() -> None:
    said: list[str] = []
    with told_to(said.append):
        with doing("loading"):
            pass
        assert list(counted("measuring the base", ["a", "b"])) == ["a", "b"]
    assert said == [
        "loading",
        "",
        "measuring the base",
        "measuring the base 1/2",
        "measuring the base 2/2",
        "",
        "",
    ]
    with pytest.raises(ZeroDivisionError), told_to(said.append), doing("failing"):
        raise ZeroDivisionError
    assert said[-2:] == ["", ""]


def test_what_is_around_it_goes_on_when_a_part_is_done() -> None:
    said: list[str] = []
    with told_to(said.append), doing("exporting"):
        parts = counted("writing tensor", iter("ab"))
        next(parts)
        with doing("saving") as far:
            far("1/2 MB")
        list(parts)
    assert said == [
        "exporting", "writing tensor", "writing tensor 1", "saving", "saving 1/2 MB", "writing tensor 1",
        "writing tensor 2", "exporting", "", "",
    ]  # fmt: skip


def test_reading_a_large_file_says_how_much_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing_module, "PIECE", 1 << 20)
    file, said = tmp_path / "weights", list[str]()
    file.write_bytes(bytes(range(256)) * 12_000)
    with told_to(said.append), hashing("verifying step-000007", 2 * file.stat().st_size) as digest:
        assert digest(file) == digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert said[:3] == [
        "verifying step-000007",
        "verifying step-000007 1/6 MB",
        "verifying step-000007 2/6 MB",
    ]
    assert said[-3:] == ["verifying step-000007 6/6 MB", "", ""]


def test_bars_of_other_libraries_draw_nothing_and_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with told_to(said.append), told_bars("loading oak") as bar:
        assert list(bar(range(3), desc="Loading weights", mininterval=0)) == [0, 1, 2]
        bar(total=9, unit="B").update(4)  # bytes are asked for below, not here
    assert "loading oak 2/3" in said and not [text for text in said if "MB" in text]
    with told_to(said.append), told_bars("fetching oak", "B") as bar, bar(total=5_000_000, unit="B") as one:
        one.update(2_000_000)
        one.refresh()
    assert "fetching oak 2/5 MB" in said
    assert capfd.readouterr() == ("", "")


def test_only_what_takes_long_is_shown_and_taken_back_when_it_is_over() -> None:
    shown: list[str] = []
    patient = Patient(shown.append, every=0.02, after=0.2)
    patient("quick")
    patient("")
    assert shown == []
    patient("slow 1/9")
    time.sleep(0.4)
    patient("slow 2/9")
    time.sleep(0.2)
    patient("")
    assert shown[0] == "slow 1/9"
    assert "slow 2/9" in shown
    assert shown[-1] == ""
    time.sleep(0.1)
    assert shown[-1] == "", "nothing comes behind the end"


def test_a_log_gets_lines_of_what_takes_long(tmp_path: Path) -> None:
    code = (
        "import time; from sapwood.show import manner\n"
        "manner.LOG_SECONDS = 0.1\n"
        "from sapwood.machine.doing import counted\n"
        "with manner.progress():\n"
        "  for _ in counted('measuring the base', range(4)): time.sleep(0.15)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert "sapwood: measuring the base 3/4" in done.stderr.splitlines()
