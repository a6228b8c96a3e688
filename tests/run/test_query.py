from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sapwood.errors import ConfigError, StorageError
from sapwood.run.query import (
    compare_runs,
    find_run,
    list_runs,
    read_config,
    read_events,
    read_samples,
    summarise,
)
from sapwood.run.store import open_run, reopen_run
from tests.run.conftest import Make
from tests.run.shared import evaluated, stepped


def test_a_run_is_found_by_whatever_a_person_types(root: Path, make_run: Make) -> None:
    oak, elm = make_run("oak"), make_run("elm")
    for text, path in [(oak.name, oak), (str(elm), elm), ("elm", elm), ("last", elm), (oak.name[:-2], oak)]:
        assert find_run(root, text).samefile(path)


def test_a_run_elsewhere_is_found_by_its_path(tmp_path: Path, make_run: Make) -> None:
    assert find_run(tmp_path / "other", str(make_run())).is_dir()


def test_the_newest_is_by_its_record_not_by_its_folder(root: Path, make_run: Make) -> None:
    oak, elm = make_run("oak"), make_run("elm")
    os.utime(oak, (4e9, 4e9))
    assert find_run(root, "last") == elm
    assert [run.id for run in list_runs(root)] == [elm.name, oak.name]


def test_a_name_that_two_runs_have_is_refused_with_both(root: Path, make_run: Make) -> None:
    first, second = make_run("oak"), make_run("oak")
    with pytest.raises(ConfigError, match=f"oak means 2 runs.*newest first: {second.name}, {first.name}"):
        find_run(root, "oak")
    with pytest.raises(ConfigError, match="means 2 runs"):
        find_run(root, first.name[:6])


def test_a_run_that_is_not_there_names_the_nearest(root: Path, make_run: Make) -> None:
    with pytest.raises(ConfigError, match="no runs yet"):
        find_run(root, "last")
    make_run("nursery")
    with pytest.raises(ConfigError, match="did you mean nursery"):
        find_run(root, "nursrey")
    with pytest.raises(ConfigError, match="the newest is 2"):
        find_run(root, "\x00")
    with pytest.raises(ConfigError):
        find_run(root, "")


def test_a_run_in_figures(make_run: Make) -> None:
    run = summarise(make_run("oak", steps=8))
    assert (run.name, run.status, run.base) == ("oak", "finished", "builtin:smollm2")
    assert (run.step, run.total_steps) == (8, 8)
    assert run.loss == pytest.approx(1.2707, abs=1e-4)
    assert (run.base_eval_loss, run.best_eval_loss, run.last_eval_loss) == (3.0, 2.0, 2.0)
    assert run.tokens_per_second == 310
    assert run.seconds == 8 * 2.0 + 3 * 3.0
    assert run.damaged_lines == 0


def test_a_run_before_its_first_step(root: Path) -> None:
    with open_run(root, name=None, config_yaml="{}", facts={}) as store:
        run = summarise(store.path)
    assert (run.status, run.step, run.loss, run.best_eval_loss, run.tokens_per_second) == (
        "running",
        0,
        None,
        None,
        None,
    )


def test_a_run_that_another_process_trains_is_running_and_then_crashed(make_run: Make) -> None:
    path = make_run(status="running")
    assert summarise(path).status == "crashed"
    code = "import sys, pathlib; from sapwood.run.store import reopen_run\n"
    code += "run = reopen_run(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    assert summarise(path).status == "running"
    child.kill()
    child.communicate()
    assert summarise(path).status == "crashed"


def test_one_damaged_run_does_not_hide_the_others(root: Path, make_run: Make) -> None:
    oak, elm = make_run("oak"), make_run("elm")
    (oak / "status.json").write_text("[")
    with (oak / "events.jsonl").open("ab") as log:
        log.write(b'garbage\n{"seq": "x"}\n')
    (root / "notes").mkdir()
    (root / "file").write_text("")
    runs = list_runs(root)
    assert [(run.id, run.status, run.damaged_lines) for run in runs] == [
        (elm.name, "finished", 0),
        (oak.name, "unknown", 2),
    ]
    (elm / "run.json").write_text("{")
    with pytest.raises(StorageError, match="not a run"):
        summarise(elm)


def test_events_are_followed_by_offset(make_run: Make) -> None:
    path = make_run(steps=2)
    events, offset = read_events(path)
    assert read_events(path, offset) == ([], offset)
    with reopen_run(path) as run:
        run.record(stepped(3))
        again, later = read_events(path, offset)
        assert [event["step"] for event in again] == [3]
        assert later > offset
        run.truncate_events(offset)
        assert read_events(path, later) == ([], offset)
    assert len(events) == 2 + 3 + 1
    assert [s["answer"] for s in read_samples(path)] == ["I am an AI.", *["Ah, the north wall."] * 2]


def test_a_loss_that_is_no_number_does_not_break_the_figures(root: Path) -> None:
    with open_run(root, name=None, config_yaml="{}", facts={}) as store:
        store.record(evaluated(0, float("nan")))
        store.record(stepped(1, float("inf")))
        run = summarise(store.path)
    assert (run.loss, run.best_eval_loss, run.step) == (None, None, 1)


def test_a_comparison_shows_only_the_keys_that_differ(make_run: Make) -> None:
    paths = [
        make_run("oak", steps=4, train={"lr": 1e-4}),
        make_run("elm", train={"lr": 2e-4}, lora={"targets": ["q_proj"]}),
    ]
    comparison = compare_runs(paths)
    assert dict(comparison.config) == {
        "name": ("oak", "elm"),
        "train.lr": (1e-4, 2e-4),
        "lora.targets": ("all-linear", ["q_proj"]),
    }
    assert [run.step for run in comparison.runs] == [4, 8]


def test_configs_of_other_versions_compare_too(make_run: Make) -> None:
    new, old = make_run("oak"), make_run("oak")
    (old / "config.yaml").write_text((old / "config.yaml").read_text() + "future: {key: 1}\n")
    assert dict(compare_runs([new, old]).config) == {"future.key": (None, 1)}
    assert read_config(old)["future.key"] == 1
    (old / "config.yaml").write_text("a: [")
    with pytest.raises(StorageError, match=r"config\.yaml"):
        compare_runs([new, old])
    (old / "config.yaml").write_text("just text")
    assert read_config(old) == {}


def test_looking_changes_nothing(make_run: Make) -> None:
    path = make_run()
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    summarise(path)
    compare_runs([path, path])
    assert before == {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    assert json.loads((path / "run.json").read_text())["schema"] == 1
