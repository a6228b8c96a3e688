"""Command lines in processes of their own: they end, fail, wait, are taken out, and are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapwood.errors import ConfigError
from sapwood.page.actions import Actions
from sapwood.page.places import Places
from sapwood.page.work.jobs import Job, Jobs
from sapwood.page.work.runner import JOB, PID
from sapwood.run.files import to_json
from tests.page.shared import eventually, hold_run


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    (tmp_path / "runs").mkdir()
    return Jobs(tmp_path / "runs")


def ended(jobs: Jobs, job: Job) -> Job:
    eventually(lambda: jobs.read(job.path).state not in ("waiting", "working"))
    return jobs.read(job.path)


def test_a_command_ends_with_its_code_and_what_it_said_and_another_page_finds_it(jobs: Jobs) -> None:
    done = ended(jobs, jobs.start("runs", ("--json",), "all"))
    assert done.state == "done" and done.result() == []
    failed = ended(jobs, jobs.start("verify", ("nothing",), "bad"))
    assert failed.state == "failed" and failed.code == 2 and "no run" in failed.said()
    assert [job.title for job in Jobs(jobs.folder.parents[1]).all()] == ["bad", "all"]


def test_a_queued_training_waits_for_a_run_that_is_held_and_can_be_taken_out(
    jobs: Jobs, tmp_path: Path
) -> None:
    process, _ = hold_run(tmp_path, tmp_path / "runs")
    try:
        job = jobs.start("train", (), "later", waits=True, config="data: {train: none.json}")
        eventually(lambda: (job.path / PID).exists())
        other = jobs.start("train", (), "never", waits=True, config="data: {train: none.json}")
        assert jobs.read(job.path).state == "waiting"
        jobs.cancel(other)
        assert ended(jobs, other).state == "cancelled"
    finally:
        process.kill()
        process.wait()
    assert ended(jobs, job).code == 3  # its turn came, and its data aren't there


def test_a_job_whose_process_is_gone_is_lost_and_not_working(jobs: Jobs) -> None:
    path = jobs.folder / "x"
    path.mkdir(parents=True)
    (path / JOB).write_text(to_json({"verb": "train", "words": [], "title": "x", "made": 0.0, "waits": True}))
    (path / PID).write_text("999999999")
    assert jobs.read(path).state == "lost"


def test_a_page_that_only_shows_refuses_everything(jobs: Jobs, tmp_path: Path) -> None:
    actions = Actions(Places.of(tmp_path / "runs", []), jobs, read_only=True)
    run = tmp_path / "runs" / "x"
    for act in (
        lambda: actions.train("", "x", waits=False), lambda: actions.stop(run), lambda: actions.wake(run),
        lambda: actions.resume(run), lambda: actions.export(run, "gguf", "F16"),
        lambda: actions.evaluate(run, 1),
        lambda: actions.dry_push(run, "a/b"), lambda: actions.pull("builtin:smollm2"),
        lambda: actions.upload("x", b""), lambda: actions.keep("x", {}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="may change nothing"):
            act()
    assert jobs.all() == [] and not list((tmp_path / "runs").iterdir())


def test_an_upload_stays_below_the_runs_and_never_replaces_another_file(jobs: Jobs, tmp_path: Path) -> None:
    actions = Actions(Places.of(tmp_path / "runs", []), jobs, read_only=False)
    first = actions.upload("../../x.jsonl", b"1")
    assert first == tmp_path / "runs" / "uploads" / "x.jsonl"
    assert actions.upload("x.jsonl", b"1") == first
    assert actions.upload("x.jsonl", b"2").name == "x-2.jsonl" and first.read_bytes() == b"1"
