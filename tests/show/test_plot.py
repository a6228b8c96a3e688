from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sapwood.errors import StorageError
from sapwood.run.store import open_run
from sapwood.show.plot import save_loss_curve, smoothed
from tests.run.conftest import Make


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_color(picture: np.ndarray, red: int, green: int, blue: int) -> bool:
    return bool((np.abs(picture * 255 - [red, green, blue]).max(axis=2) < 3).sum() > 50)


def test_the_picture_shows_training_and_held_out_loss(make_run: Make) -> None:
    path = make_run("oak", steps=40)
    assert save_loss_curve(path) == path / "loss.png"
    picture = pixels(path / "loss.png")
    assert picture.shape == (1080, 1800, 3)
    assert has_color(picture, 0x3F, 0x7D, 0x4E)  # the smoothed training loss
    assert has_color(picture, 0xC8, 0x70, 0x2A)  # held-out
    assert [file.name for file in path.iterdir() if file.name.startswith(".")] == []


def test_a_run_without_steps_or_without_evaluations_can_be_drawn(root: Path, make_run: Make) -> None:
    with open_run(root, name=None, config_yaml="{}", facts={}) as run:
        empty = pixels(save_loss_curve(run.path))
    assert not has_color(empty, 0x3F, 0x7D, 0x4E)
    one = make_run("one", steps=1)
    lines = (one / "events.jsonl").read_text().splitlines(keepends=True)
    (one / "events.jsonl").write_text("".join(line for line in lines if "evaluated" not in line))
    picture = pixels(save_loss_curve(one))
    assert not has_color(picture, 0xC8, 0x70, 0x2A)


def test_any_name_is_drawn_in_silence_even_without_fontconfig(make_run: Make, tmp_path: Path) -> None:
    path = make_run("甄嬛-lora", data={"train": ["数据/$甄嬛传^2$.json", "b" * 200]})
    code = "import sys; from pathlib import Path; from sapwood.show.plot import save_loss_curve\n"
    code += "save_loss_curve(Path(sys.argv[1]))"
    env = {**os.environ, "PATH": "", "HOME": "/proc", "MPLCONFIGDIR": str(tmp_path / "cache"), "DISPLAY": ""}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(path)], env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert pixels(path / "loss.png").shape == (1080, 1800, 3)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a run"):
        save_loss_curve(tmp_path)


def test_smoothing_keeps_a_constant_and_does_not_lag() -> None:
    assert np.allclose(smoothed([2.0] * 50, 3), 2.0)
    line = np.arange(50.0)
    assert np.allclose(smoothed(line, 2)[10:-10], line[10:-10])
    assert np.allclose(smoothed([5.0], 0.5), [5.0])
    rough = np.random.default_rng(0).normal(size=400)
    assert smoothed(rough, 8).std() < 0.3 * rough.std()
