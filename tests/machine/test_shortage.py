"""What the machine runs out of decides nothing: neither how a run computes, nor that a file is damaged."""

from __future__ import annotations

import ast
import os
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.overrides import TorchFunctionMode

from sapwood.base.inspect import inspect_base
from sapwood.config.sections import BaseConfig, LoraConfig
from sapwood.errors import ModelError, OutOfMemoryError, ShortageError
from sapwood.machine import shortage
from sapwood.run.files import staged_dir
from sapwood.serve import rows
from sapwood.serve.rows import joins
from sapwood.train import checkpoint, trial
from sapwood.train.checkpoint import newest_good
from tests.base.tiny import tiny_llama, tiny_model

SOURCES = Path(shortage.__file__).parents[1]
TRIED = ("adapter", "base", "compute", "native", "serve", "train")
BROAD = {"Exception", "RuntimeError", "UNABLE"}
DECIDE_NOTHING = {
    "adapter/elsewhere/unpickle.py",  # tells another process, which raises
    "train/processes/heartbeat.py",  # another process is gone, in torch's words
    "train/processes/world.py",
}
REFUSAL = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"


class Short(TorchFunctionMode):
    """The call of a torch function with this number, from 1 on, gets no memory."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.seen = number, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        takes = getattr(func, "__name__", "") != "_set_grad_enabled"  # needs no memory, and ends a block
        self.seen += takes
        if takes and self.seen == self.number:
            raise RuntimeError(REFUSAL)
        return func(*args, **(kwargs or {}))


def full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")


@contextmanager
def without_files() -> Generator[None]:
    """No file can be opened inside, but those that are open stay so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def no_open_file() -> None:
    with without_files():
        Path(os.devnull).open().close()


def no_open_file_by_rust() -> None:
    with without_files():
        Tokenizer.from_file(__file__)


REAL: dict[Callable[[], object], str] = {
    lambda: bytearray(1 << 62): "memory",
    lambda: torch.empty(1 << 60): "memory",
    full_disk: "room on a disk",
    no_open_file: "open files",
    no_open_file_by_rust: "open files",
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("fail", REAL)
def test_each_real_refusal_is_known(fail: Callable[[], object]) -> None:
    with pytest.raises(Exception) as caught:
        fail()
    for error in (caught.value, hidden(caught.value)):
        with pytest.raises(ShortageError, match=f"^{REAL[fail]} ran out while a kernel was tried"):
            shortage.refuse_shortage(error, "a kernel was tried")


def hidden(error: Exception) -> ModelError:
    """The same behind two sentences of ours."""
    try:
        try:
            raise error
        except Exception:
            raise ModelError("can't be read") from None
    except ModelError as first:
        try:
            raise ModelError("can't be loaded") from first
        except ModelError as second:
            return second


def test_other_errors_pass() -> None:
    wrong_shapes = RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")
    for error in (ValueError("x"), wrong_shapes, FileNotFoundError(2, "none"), ModelError("out of memory")):
        shortage.refuse_shortage(error, "a kernel was tried")


def test_what_was_handled_when_a_call_began_is_no_part_of_its_error() -> None:
    try:
        raise MemoryError
    except MemoryError:
        try:
            raise ValueError("of the model")
        except ValueError as error:
            shortage.refuse_shortage(error, "a kernel was tried")


def test_no_operation_without_memory_changes_what_a_trial_says(tmp_path: Path) -> None:
    """A run that found rows alone, for want of memory, would give another adapter than one that didn't."""
    spec = inspect_base(BaseConfig(model=str(tiny_llama(tmp_path))))

    def try_out(number: int) -> tuple[trial.Trial, int]:
        trial.passed.clear()
        with Short(number) as short:
            found = trial.try_out(spec, LoraConfig(rank=2))
        return found, short.seen

    undisturbed, calls = try_out(0)
    assert not undisturbed.alone
    refused = 0
    for number in range(1, calls, max(1, calls // 20)):
        try:
            found, _ = try_out(number)
        except OutOfMemoryError as error:
            assert "memory ran out while" in str(error)
            refused += 1
        else:
            assert found == undisturbed
    trial.passed.clear()
    assert refused >= 17


def test_no_operation_without_memory_changes_how_rows_are_answered() -> None:
    def joined(number: int) -> tuple[bool, int]:
        network = tiny_model("llama")
        rows._joins.clear()  # each is asked once
        with Short(number) as short:
            return joins(network), short.seen

    undisturbed, calls = joined(0)
    assert undisturbed
    refused = 0
    for number in range(1, calls, max(1, calls // 15)):
        try:
            assert joined(number)[0]
        except OutOfMemoryError:
            refused += 1
    assert refused >= 12


def test_a_checkpoint_is_not_damaged_because_files_can_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "checkpoints" / "step-000001"
    with staged_dir(final) as stage:
        (stage / "state.json").write_text("{}")

    def one_good(_: Path) -> list[Path]:
        return [final]

    monkeypatch.setattr(checkpoint, "checkpoints", one_good)  # a folder is opened to be listed
    with without_files(), pytest.raises(ShortageError, match="open files ran out while step-000001 was"):
        newest_good(tmp_path)
    assert newest_good(tmp_path) == (final, [])


def test_each_broad_handler_in_what_decides_asks_first() -> None:
    """Handlers that raise say at least what happened; the others would decide."""
    silent = [
        path.relative_to(SOURCES).as_posix()
        for folder in TRIED
        for path in sorted((SOURCES / folder).rglob("*.py"))
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler) and _is_broad(handler) and not _asks(handler)
    ]
    assert set(silent) == DECIDE_NOTHING


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = [] if handler.type is None else ast.walk(handler.type)
    return handler.type is None or any(isinstance(kind, ast.Name) and kind.id in BROAD for kind in kinds)


def _asks(handler: ast.ExceptHandler) -> bool:
    calls = [node.func for node in ast.walk(handler) if isinstance(node, ast.Call)]
    asked = any(isinstance(call, ast.Name) and call.id == "refuse_shortage" for call in calls)
    return asked or any(isinstance(node, ast.Raise) for node in handler.body)
