"""Bits that flip and files that shrink: all of it is noticed, and what is damaged is passed over."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from sapwood import finetune, resume
from sapwood.commands.verify import examine_run, repair_run, verify_run
from sapwood.errors import StorageError
from sapwood.run.files import verify_dir
from sapwood.run.query import read_events
from sapwood.train.checkpoint import checkpoints
from tests.crash.work import folder_hash, tiny_config

CASES = 1000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, its last two checkpoints kept."""
    folder = tmp_path_factory.mktemp("finished")
    return finetune(tiny_config(folder, train={"max_steps": 3})).path.parent


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / finished.name))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_and_every_truncation_is_noticed(finished: Path, tmp_path: Path) -> None:
    """500 of each, over all files of a checkpoint by their sizes, the manifest too."""
    good = Path(shutil.copytree(checkpoints(finished)[-1], tmp_path / "step"))
    files = sorted(good.iterdir())
    whole = {path: path.read_bytes() for path in files}
    rng = random.Random(6)
    verify_dir(good)
    for case in range(CASES):
        path = rng.choices(files, [len(whole[p]) for p in files])[0] if case % 4 else rng.choice(files)
        if case % 2:
            flip(path, rng.randrange(8 * len(whole[path])))
        else:
            path.write_bytes(whole[path][: rng.randrange(len(whole[path]))])
        with pytest.raises(StorageError) as caught:
            verify_dir(good)
        assert path.name in str(caught.value)
        path.write_bytes(whole[path])
    verify_dir(good)


@pytest.mark.parametrize("fault", ["missing", "empty", "halved", "extra"])
def test_every_file_that_is_gone_or_short_or_too_much_is_noticed(
    fault: str, finished: Path, tmp_path: Path
) -> None:
    for name in [path.name for path in checkpoints(finished)[-1].iterdir()]:
        copy = Path(shutil.copytree(checkpoints(finished)[-1], tmp_path / name))
        content = (copy / name).read_bytes()
        if fault == "missing":
            (copy / name).unlink()
        elif fault == "extra":
            (copy / f"{name}.bak").write_bytes(content)
        else:
            (copy / name).write_bytes(content[: len(content) // 2 if fault == "halved" else 0])
        with pytest.raises(StorageError, match=name):
            verify_dir(copy)


def test_a_damaged_adapter_is_made_again(run: Path) -> None:
    expected = folder_hash(run / "adapter")
    flip(run / "adapter" / "adapter_model.safetensors", 12_345)
    resume(run)
    assert folder_hash(run / "adapter") == expected
    assert (run / ".bad-damaged-adapter").is_dir()
    assert any("the adapter is damaged" in e["data"].get("text", "") for e in read_events(run)[0])


def test_damaged_data_is_refused(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    flip(run / "data" / "train.safetensors", 4_000)
    with pytest.raises(StorageError, match=r"sha256 differs · .*train.safetensors"):
        resume(run)


def test_verify_finds_nothing_in_a_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = folder_hash(run)
    verify_run(str(run), run.parent, repair=False, as_json=False)
    parts = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    steps = ["checkpoints/step-000002", "checkpoints/step-000003"]
    assert parts == ["run.json", "config.yaml", "data", *steps, "adapter", "events.jsonl", "samples.jsonl"]
    assert folder_hash(run) == before


def test_verify_repairs_by_setting_aside_and_resume_makes_it_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = folder_hash(run / "adapter")
    flip(run / "adapter" / "sapwood.json", 99)
    flip(run / "checkpoints/step-000003/optimizer.safetensors", 9_999)
    with (run / "events.jsonl").open("a") as log:
        log.write("not a line of ours\n")
    with pytest.raises(StorageError) as caught:
        verify_run(str(run), run.parent, repair=False, as_json=False)
    assert len(caught.value.problems) == 3
    verify_run(str(run), run.parent, repair=True, as_json=True)
    shown = capsys.readouterr().out
    told = json.loads(shown[shown.index("{") :])
    assert {part["part"] for part in told["parts"] if part["repaired"]} == {
        "adapter",
        "checkpoints/step-000003",
        "events.jsonl",
    }
    assert all(not finding.problems for finding in examine_run(run))
    assert (run / "checkpoints/.bad-damaged-step-000003").is_dir()
    assert (run / ".bad-damaged-events.jsonl").is_file()
    resume(run)
    assert folder_hash(run / "adapter") == expected


def test_what_nothing_can_replace_is_told_and_left(run: Path) -> None:
    flip(run / "data" / "study.json", 70)
    (run / "run.json").write_text("{")
    findings = {finding.part: finding for finding in repair_run(run) if finding.problems}
    assert set(findings) == {"run.json", "data"}
    assert not any(finding.repaired for finding in findings.values())
    assert (run / "data").is_dir()


def test_when_no_checkpoint_is_left_it_says_so_and_then_starts_over(run: Path) -> None:
    expected = folder_hash(run / "adapter")
    shutil.rmtree(run / "adapter")
    for path in checkpoints(run):
        flip(path / "state.json", 17)
    with pytest.raises(
        StorageError, match=r"every checkpoint .* is damaged .*starts this run from its first"
    ):
        resume(run)
    resume(run)
    assert folder_hash(run / "adapter") == expected


def test_the_command_leaves_with_5_where_something_is_damaged(run: Path) -> None:
    from typer.testing import CliRunner

    from sapwood import cli

    assert CliRunner().invoke(cli.app, ["verify", str(run)]).exit_code == 0
    flip(run / "checkpoints/step-000003/state.json", 8)
    damaged = CliRunner().invoke(cli.app, ["verify", str(run)])
    assert isinstance(damaged.exception, StorageError) and damaged.exception.exit_code == 5
    repaired = CliRunner().invoke(cli.app, ["verify", str(run), "--repair"])
    assert repaired.exit_code == 0
    assert "set aside as .bad-damaged-step-000003" in repaired.output
