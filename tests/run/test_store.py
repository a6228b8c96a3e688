from __future__ import annotations

import errno
import json
import os
import re
import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sapwood.errors import LockedError, StorageError
from sapwood.run import files
from sapwood.run import lock as lock_module
from sapwood.run.lines import read_lines
from sapwood.run.query import list_runs, read_events, read_samples, summarise
from sapwood.run.store import RunStore, open_run, reopen_run
from sapwood.types import Finished
from tests.run.conftest import Make
from tests.run.shared import die_before, evaluated, fail_at, sample, stepped

CONFIG = "data: {train: [data.json]}\n"


def opened(root: Path, **changes: object) -> RunStore:
    arguments = {
        "name": None,
        "config_yaml": CONFIG,
        "facts": {"base": "hf:org/Small-2B@main", "data": "ab12"},
    }
    return open_run(root, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_new_run_says_what_it_is(root: Path) -> None:
    with opened(root, parent="20260101-000000-x-0000") as run:
        about = json.loads((run.path / "run.json").read_text())
        assert re.fullmatch(r"\d{8}-\d{6}-Small-2B-[0-9a-f]{4}", run.id)
        assert run.path == root / run.id
        assert (about["id"], about["name"], about["parent"]) == (run.id, "Small-2B", "20260101-000000-x-0000")
        assert about["facts"] == {"base": "hf:org/Small-2B@main", "data": "ab12"}
        assert set(about["versions"]) == {"python", "sapwood", "torch", "transformers", "peft", "xllamacpp"}
        assert about["versions"]["torch"][0].isdigit()
        assert about["machine"]["cpus"] >= 1
        assert (run.path / "config.yaml").read_text() == CONFIG
        assert json.loads((run.path / "status.json").read_text())["status"] == "running"


@pytest.mark.parametrize(
    ("base", "label"),
    [("builtin:smollm2", "smollm2"), ("/m/My Model.gguf", "My-Model"), ("../..", "run"), ("C:\\m\\q\\", "q")],
)
def test_a_run_without_a_name_is_called_after_its_base(root: Path, base: str, label: str) -> None:
    with opened(root, facts={"base": base}) as run:
        assert run.id[16:-5] == label


def test_a_folder_that_exists_is_never_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter(["aaaa", "aaaa", "bbbb", *(f"{n:012x}" for n in range(99))])
    monkeypatch.setattr("sapwood.run.store.secrets.token_hex", lambda size: next(draws))
    for second in range(60):
        stamp = datetime.now() + timedelta(seconds=second)
        (root / f"{stamp:%Y%m%d-%H%M%S}-demo-aaaa").mkdir(parents=True)
    with opened(root, name="demo") as run:
        assert run.id.endswith("-demo-bbbb")


def test_events_and_samples_are_written_as_they_come(root: Path) -> None:
    with opened(root) as run:
        run.record(evaluated(0, 3.0, sample("\x1b[31m", stopped=False), sample("b")))
        run.record(stepped(1, 2.5))
        run.note("checkpoint", 1, name="step-000001", seconds=0.2)
        run.record(Finished(1, "done", 9.0))
        events, _ = read_events(run.path)
        assert [event["seq"] for event in events] == [0, 1, 2, 3]
        assert [event["kind"] for event in events] == ["evaluated", "stepped", "checkpoint", "finished"]
        assert [event["step"] for event in events] == [0, 1, 1, 1]
        assert events[0]["data"] == {"loss": 3.0, "num_targets": 500, "seconds": 3.0, "scores": {}}
        assert events[1]["data"]["lr"] == 9.1e-5
        assert "step" not in events[1]["data"]
        first, second = read_samples(run.path)
        assert (first["seq"], first["index"], second["index"]) == (0, 0, 1)
        assert (first["answer"], first["stopped"], first["row"]) == ("\x1b[31m", False, "data.json:7")


def test_a_full_disk_never_stops_the_recording(root: Path) -> None:
    with opened(root) as run:
        run.record(stepped(1))
        files.on_operation = fail_at(1, errno.ENOSPC)
        run.record(stepped(2))
        run.record(stepped(3))
        files.on_operation = None
        assert run.lost_lines == 1
        assert [(event["seq"], event["step"]) for event in read_events(run.path)[0]] == [(0, 1), (2, 3)]


def test_a_resume_forgets_what_came_after_the_checkpoint(root: Path) -> None:
    with opened(root) as run:
        run.record(evaluated(0, 3.0, sample("before")))
        run.record(stepped(1))
        length = run.events_length()
        run.record(stepped(2))
        run.record(evaluated(2, 2.0, sample("after")))
        path = run.path
    with reopen_run(path) as run:
        run.truncate_events(length)
        run.record(stepped(2, 2.25))
        run.record(evaluated(2, 2.0, sample("again")))
    events, _ = read_events(path)
    assert [(event["seq"], event["step"], event["kind"]) for event in events] == [
        (0, 0, "evaluated"),
        (1, 1, "stepped"),
        (2, 2, "stepped"),
        (3, 2, "evaluated"),
    ]
    assert [(s["seq"], s["answer"]) for s in read_samples(path)] == [(0, "before"), (3, "again")]


def test_a_record_shorter_than_its_checkpoint_is_noted_and_does_not_stop_a_resume(root: Path) -> None:
    with opened(root) as run:
        run.record(stepped(1))
        run.truncate_events(run.events_length() + 100)
        assert read_events(run.path)[0][-1]["data"] == {
            "text": "events.jsonl was 100 bytes shorter than the checkpoint recorded"
        }


def test_status_is_replaced_whole(root: Path) -> None:
    with opened(root) as run:
        run.set_status("failed", error="loss is not a number")
        run.set_status("running", total_steps=12)
        status = json.loads((run.path / "status.json").read_text())
        assert status.pop("updated")
        assert status == {"status": "running", "total_steps": 12}


def test_only_plain_names_are_written(root: Path) -> None:
    with opened(root) as run:
        run.write_json("proof.json", {"b": 1, "a": [2]})
        assert (run.path / "proof.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
        with pytest.raises(ValueError, match="plain file name"):
            run.write_json("../proof.json", {})


def test_a_held_run_cannot_be_held_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "PATIENCE", 0.05)
    with opened(root) as run, pytest.raises(LockedError, match=f"process {os.getpid()}"):
        reopen_run(run.path)
    run.close()
    reopen_run(run.path).close()


def test_reopening_sweeps_what_a_killed_writer_left(make_run: Make) -> None:
    path = make_run()
    (path / "checkpoints").mkdir()
    for leftover in (path / ".tmp-ab12", path / "checkpoints" / ".tmp-step-2-ab12"):
        leftover.mkdir()
        (leftover / "w").write_text("half")
    with (path / "events.jsonl").open("ab") as log:
        log.write(b'{"seq": 99, "t')
    with reopen_run(path) as run:
        run.note("note", 8, text="resumed")
        assert [p.name for p in path.rglob(".tmp-*")] == []
    lines = read_lines(path / "events.jsonl")
    assert lines.garbage == 0
    assert [record["seq"] for record in lines.records] == list(range(len(lines.records)))


def test_a_folder_that_is_no_run_cannot_be_reopened(root: Path) -> None:
    with pytest.raises(StorageError, match="not a run"):
        reopen_run(root)


def test_a_reopening_that_fails_releases_the_run(make_run: Make) -> None:
    path = make_run()
    (path / "events.jsonl").unlink()
    (path / "events.jsonl").mkdir()
    with pytest.raises(StorageError):
        reopen_run(path)
    (path / "events.jsonl").rmdir()
    reopen_run(path).close()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(StorageError, match="runs can't be kept in a file"):
            opened(root)


def test_a_root_that_cannot_be_created_is_refused() -> None:
    with pytest.raises(StorageError, match=r"/proc/sapwood-runs"):
        opened(Path("/proc/sapwood-runs"))


def test_a_root_without_permission_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.chown(closed, 65534, 65534)
                for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
                    folder.chmod(0o755)
                os.setuid(65534)
            opened(closed)
        except StorageError as error:
            code = 0 if "not allowed to write" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_run_that_cannot_be_made_leaves_nothing(root: Path) -> None:
    for number in range(2, 40):
        files.on_operation = fail_at(number, errno.ENOSPC)
        try:
            opened(root).close()
        except StorageError:
            files.on_operation = None
            assert list_runs(root) == []
            assert list(root.iterdir()) == []
        else:
            break
    assert number > 10
    assert len(list_runs(root)) == 1


def test_a_start_killed_anywhere_leaves_a_whole_run_or_none(root: Path) -> None:
    number = made = 0
    killed = True
    while killed:
        number += 1
        killed = die_before(number, lambda: opened(root).close())
        made += len(list_runs(root)) - made
    assert number > 15
    assert made >= 1
    for run in list_runs(root):
        assert run.status == "crashed"  # says running, and nobody holds it
        reopen_run(run.path).close()


def test_a_killed_training_reads_as_crashed_and_can_be_resumed(root: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run = opened(root, name="doomed")
            run.record(stepped(1))
            os.write(tell, b"y")
            while True:
                run.record(stepped(2))
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"y"
    (path,) = root.iterdir()
    assert summarise(path).status == "running"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert summarise(path).status == "crashed"
    with reopen_run(path) as run:
        run.set_status("running")
        assert summarise(path).status == "running"
        run.set_status("finished")
    assert summarise(path).status == "finished"
    assert summarise(path).damaged_lines == 0
