"""``sapwood model pull|list|info``."""

from __future__ import annotations

from sapwood.base.builtin import BUILTINS
from sapwood.base.held import held
from sapwood.base.sources import list_models, model_info, resolve
from sapwood.run.files import to_json
from sapwood.show.figures import size


def pull(model: str, *, accept_license: bool) -> None:
    path = resolve(model, accept_license=accept_license)
    print(f"{model} is here: {path}")


def show_list(*, as_json: bool) -> None:
    models, cached = list_models(), held()
    if as_json:
        facts = [
            {
                "name": m.name,
                "title": m.title,
                "size": m.size,
                "licence": m.licence,
                "pulled": m.path is not None,
            }
            for m in models
        ]
        caches = [{"name": one.name, "kind": one.kind, "size": one.size} for one in cached]
        print(to_json({"models": facts, "held": caches}), end="")
        return
    for m in models:
        state = "pulled" if m.path is not None else pull_line(m.name)
        print(f"{m.name:<24} {size(m.size):>8}  {m.licence:<18} {m.title}  [{state}]")
    for one in cached:
        print(f"{one.name:<24} {size(one.size):>8}  {one.kind:<18} [in its hub's cache]")
    print("also: hf:ORG/NAME[@revision], ms: likewise, a folder in Hugging Face layout, a .gguf file")


def pull_line(name: str) -> str:
    """What to type to have a built-in model here, with its terms if they are to be accepted."""
    terms = BUILTINS[name.removeprefix("builtin:")].terms
    return f"sapwood model pull {name}" + (f" --accept-license  # its terms: {terms}" if terms else "")


def show_info(model: str, *, as_json: bool) -> None:
    facts = model_info(model)
    if as_json:
        print(to_json(facts), end="")
        return
    for key, value in facts.items():
        print(f"{key:<18} {value}")
