"""Work that needs the weights: answers with their probabilities, losses of rows, the proof that an adapter
which is off changes nothing."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from sapwood.errors import ConfigError, SapwoodError
from sapwood.prepare.cache import unpack_examples
from sapwood.prepare.study import DATA, EVAL, TRAIN
from sapwood.run.files import write_atomic
from sapwood.serve.generate import Settings
from sapwood.serve.load import Loaded, open_target
from sapwood.serve.session import ChatSession
from sapwood.serve.tokens import likeliest, token_losses
from sapwood.types import Example, Message, Role

Work = Generator[Any, None, Any]
OPEN = 2  # models that are held at once
ASKED = "Say what you are in one sentence."

_models: dict[str, Loaded] = {}


def load(target: str, runs: str) -> Work:
    """Load a model before it is asked, and prove what its base's pane shows."""
    yield "loading"
    loaded = _open(target, runs)
    return {
        "name": loaded.name,
        "base": loaded.base.spec.source,
        "system": loaded.system or "",
        "adapter": loaded.model is not None,
        "proof": prove_off(loaded),
    }


def talk(
    target: str, runs: str, messages: Sequence[Mapping[str, str]], text: str, system: str,
    settings: Mapping[str, Any], base: bool,
) -> Work:  # fmt: skip
    """One answer, token by token: text, probability, runners-up."""
    loaded = _open(target, runs)
    if base and loaded.model is None and loaded.folder is not None:
        raise ConfigError("this model was trained whole", loaded.name, "there is no adapter to switch off")
    session = ChatSession(loaded, Settings(**settings), system)
    session.messages += [Message(cast("Role", turn["role"]), turn["content"]) for turn in messages]
    seen: list[dict[str, Any]] = []
    decode: Any = loaded.tokenizer.decode

    def watch(logits: Any, chosen: Sequence[int]) -> None:
        share, others = likeliest(logits[0], chosen[0])
        named = [[decode([id]), round(p, 4)] for id, p in others]
        seen.append({"text": decode([chosen[0]]), "p": round(share, 4), "others": named})

    session.watch = watch
    answering = session.say_as_base(text) if base else session.say(text)
    try:
        while True:
            piece = next(answering)
            tokens, seen[:] = [*seen], []
            yield {"text": piece, "tokens": tokens}
    except StopIteration as end:
        answer: Any = end.value
    finally:
        answering.close()
    return {"tokens": answer.num_tokens, "stopped": answer.stopped, "seconds": answer.seconds, "end": seen}


def prove_off(loaded: Loaded) -> dict[str, Any]:
    """Whether the network with its adapter off says exactly what it says with an adapter of zeros, and with
    the adapter something else: {"off": …, "on": …}, the largest differences of log p in nats."""
    import torch

    names = [name for name in (loaded.model.parameters if loaded.model else {}) if "lora_B" in name]
    if loaded.model is None or not names or loaded.model.method == "dora":
        return {}
    ids = loaded.renderer.prompt_ids([Message("user", ASKED)])
    example = Example(cast("Any", None), np.array(ids, np.int32), np.ones(len(ids), np.bool_))
    on, off = token_losses(loaded, example), token_losses(loaded, example, base=True)
    kept = {name: loaded.model.parameters[name].detach().clone() for name in names}
    with torch.no_grad():
        try:
            for name in names:
                loaded.model.parameters[name].zero_()
            zero = token_losses(loaded, example)
        finally:
            for name, value in kept.items():
                loaded.model.parameters[name].copy_(value)
    return {"off": float(np.nanmax(np.abs(off - zero))), "on": float(np.nanmax(np.abs(on - off)))}


def row_losses(run: str, runs: str, file: str, most: int) -> Work:
    """The mean loss of each row, in nats a target by their weights, into ``file``; held-out rows first,
    ``most`` in all."""
    from sapwood.evaluate import row_losses as measure

    yield {"done": 0, "of": 0}
    loaded = _open(run, runs)
    if loaded.model is None:
        raise ConfigError("this model was trained whole", run, "its rows are measured with `sapwood eval`")
    train, held = (_examples(Path(run) / DATA / name) for name in (TRAIN, EVAL))
    losses = np.full(len(train) + len(held), np.nan, np.float32)
    order = [*range(len(train), len(losses)), *_spread(len(train), most - len(held))][:most]
    for i in range(0, len(order), 8):
        part = order[i : i + 8]
        rows = [train[at] if at < len(train) else held[at - len(train)] for at in part]
        sums = measure(loaded.model, rows)
        losses[part] = sums / [row.weight for row in rows]
        yield {"done": i + len(part), "of": len(order)}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(file), _npz(losses))
    return {"measured": len(order)}


def see_losses(run: str, runs: str, at: int) -> Work:
    """The loss of each token of one row."""
    yield "loading"
    train, held = (_examples(Path(run) / DATA / name) for name in (TRAIN, EVAL))
    example = train[at] if at < len(train) else held[at - len(train)]
    loaded = _open(run, runs)
    with_adapter = token_losses(loaded, example)
    base = token_losses(loaded, example, base=True) if loaded.model is not None else with_adapter
    return {"adapter": _plain(with_adapter), "base": _plain(base)}


# --- inside -----------------------------------------------------------------------------------------------


def _open(target: str, runs: str) -> Loaded:
    found = _models.pop(target, None)
    if found is None:
        while len(_models) >= OPEN:
            _models.pop(next(iter(_models)))
        found = open_target(target, Path(runs))
    _models[target] = found
    return found


def _examples(file: Path) -> Any:
    try:
        return unpack_examples(file.read_bytes(), file)
    except OSError as error:
        raise SapwoodError("the run's rows can't be read", str(file), str(error)) from None


def _spread(total: int, count: int) -> list[int]:
    """``count`` places of ``total``, evenly."""
    count = max(0, min(total, count))
    return [i * total // count for i in range(count)]


def _npz(losses: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    np.savez(out, loss=losses)
    return out.getvalue()


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


TASKS = {"load": load, "talk": talk, "row_losses": row_losses, "see_losses": see_losses}
