"""The network of a config: which class of transformers computes it, and where text goes through it.

A model for pictures or sound has a language model in it, and text goes only through that one. Its network
here is the class that opens the whole checkpoint, so that every name is the one that other programs see. The
modules beside the language model are there by name, and hold no weights. Some wrappers take no text without a
picture. The language model in them has a head of its own, and is called in their place.
"""

from __future__ import annotations

from functools import cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


def is_wrapper(hf_config: Any) -> bool:
    """Whether the config describes a wrapper, whose language model is only a part."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

    return type(hf_config) in MODEL_FOR_MULTIMODAL_LM_MAPPING


def whole_class(hf_config: Any) -> Any:
    """The class of transformers that opens the whole checkpoint. Raises KeyError if there is none."""
    from transformers.models.auto import auto_factory, modeling_auto

    name = "MULTIMODAL_LM" if is_wrapper(hf_config) else "CAUSAL_LM"
    mapping = getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING")
    return auto_factory._get_model_class(hf_config, mapping)  # pyright: ignore[reportPrivateUsage]


def is_linear(module: Any) -> bool:
    """A matrix of weights and nothing else: [out, in], or [in, out] as GPT-2 has it. Not those beside the
    language model of a wrapper."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D) and getattr(module, "weight", None) is not None


def is_across(module: Any) -> bool:
    """Whether the model's checkpoints hold a linear's weight as [in, out]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D) or getattr(module, "turned", False)


def auto_class(hf_config: Any) -> str:
    """What opens the whole checkpoint in plain transformers, by name."""
    from transformers.models.auto import modeling_auto

    tasks = {"IMAGE_TEXT_TO_TEXT": "ImageTextToText", "MULTIMODAL_LM": "MultimodalLM"}
    for task, name in tasks.items():
        if type(hf_config) in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING"):
            return f"AutoModelFor{name}"
    return "AutoModelForCausalLM"


def text_class(hf_config: Any) -> Any:
    """`whole_class`; of a wrapper one whose instances hold the weights of the language model alone."""
    whole = whole_class(hf_config)
    return _emptied(whole) if is_wrapper(hf_config) else whole


def rest_class(hf_config: Any) -> Any:
    """The other half: `whole_class` of a wrapper, whose instances hold what text doesn't go through."""
    return _emptied(whole_class(hf_config), text=True)


@cache
def _emptied(whole: Any, text: bool = False) -> Any:
    """``whole`` without weights beside the language model, or without those of it (``text``)."""

    def begin(self: Any, *args: Any, **settings: Any) -> None:
        whole.__init__(self, *args, **settings)
        self.speaks = speaks(self)
        beside = set(beside_text(self))
        for module in list(self.modules()):
            if (module in beside) != text:
                for table in (module._parameters, module._buffers):
                    table.update(dict.fromkeys(table))
                module._is_hf_initialized = True  # transformers' initialiser leaves it alone
                if not text and hasattr(module, "get_input_embeddings"):
                    module.__class__ = _placed(type(module))
        left = self.state_dict().keys()
        ties = self.all_tied_weights_keys.items()
        self.all_tied_weights_keys = {one: other for one, other in ties if {one, other} <= left}

    @wraps(whole.forward)
    def forward(self: Any, *args: Any, **told: Any) -> Any:
        inner = self.get_submodule(self.speaks)
        return inner(*args, **told) if self.speaks else whole.forward(self, *args, **told)

    def head(self: Any) -> Any:
        inner = self.get_submodule(self.speaks)
        return inner.get_output_embeddings() if self.speaks else whole.get_output_embeddings(self)

    # under the same name, by which transformers finds how its checkpoints are laid out
    own = {"__init__": begin, "forward": forward, "get_output_embeddings": head}
    return type(whole.__name__, (whole,), own | {"__module__": whole.__module__})


def speaks(network: Any) -> str:
    """The name of the language model in a wrapper that has a head of its own, and so answers by itself. Empty
    if the head is the network's."""
    from transformers import PreTrainedModel

    embedding = network.get_input_embeddings()
    for name, module in network.named_modules():
        if module is network or not isinstance(module, PreTrainedModel):
            continue
        around = any(one is embedding for one in module.modules())
        if around and module.get_output_embeddings() is not None:
            return name
    return ""


@cache
def _placed(kind: Any) -> Any:
    """A model's class for a part without weights, which some wrappers ask where it is."""

    def device(self: Any) -> Any:
        import torch

        return torch.get_default_device()

    return type(kind.__name__, (kind,), {"device": property(device), "__module__": kind.__module__})


def text_names(network: Any) -> Callable[[str], str]:
    """From the name of a weight or a module to the one that it has in the language model by itself."""
    return _renaming(_ends(network)) if is_wrapper(network.config) else str


def own_names(network: Any) -> Callable[[str], str]:
    """The inverse of `text_names`."""
    return _renaming([(alone, own) for own, alone in _ends(network)]) if is_wrapper(network.config) else str


def _ends(network: Any) -> list[tuple[str, str]]:
    """The names of the decoder and the head in ``network``, and in the language model by itself."""
    named = {id(module): name for name, module in network.named_modules()}
    ends = ((decoder_of(network), "model"), (network.get_output_embeddings(), "lm_head"))
    return [(named[id(module)], alone) for module, alone in ends if module is not None]


def _renaming(ends: list[tuple[str, str]]) -> Callable[[str], str]:
    def renamed(name: str) -> str:
        found = next(((old, new) for old, new in ends if f"{name}.".startswith(f"{old}.")), ("", ""))
        return found[1] + name.removeprefix(found[0])

    return renamed


def kept_dense(network: Any) -> list[str] | None:
    """The names of a wrapper's modules that aren't to be quantised while they load: the head, and those that
    text doesn't go through. None if transformers knows by itself."""
    tops = hollow(network)
    head = [name for name, module in network.named_modules() if module is network.get_output_embeddings()]
    return [*tops, *head] if tops else None


def hollow(network: Any) -> list[str]:
    """The names of a wrapper's modules that text doesn't go through, without those inside another one."""
    beside = {id(module) for module in beside_text(network)}
    names = {name for name, module in network.named_modules() if id(module) in beside}
    return sorted(name for name in names if name.rpartition(".")[0] not in names)


def beside_text(network: Any) -> Iterator[nn.Module]:
    """The modules of a wrapper that text doesn't go through: neither around its language model nor in it.
    Another of transformers' models in the decoder, as Chameleon's for pictures, is beside text."""
    from transformers import PreTrainedModel

    ends = (network.get_input_embeddings(), network.get_output_embeddings())
    decoder = decoder_of(network)
    inside = [decoder, *(end for end in ends if end is not None)]
    inside += [network.get_submodule(network.speaks)] if network.speaks else []
    within = {id(inner) for part in inside for inner in part.modules()}
    models = (module for module in decoder.modules() if isinstance(module, PreTrainedModel))
    within -= {id(inner) for model in models if model is not decoder for inner in model.modules()}
    for module in list(network.modules()):
        around = any(id(inner) in within for inner in module.modules())
        if not around:
            yield module


def decoder_of(network: Any) -> nn.Module:
    """From ids to the last hidden state: the innermost of transformers' models that has the embedding in it.
    Raises what the network raises if it has none."""
    from transformers import PreTrainedModel

    embedding = network.get_input_embeddings()
    around = [
        module
        for module in network.modules()
        if isinstance(module, PreTrainedModel) and any(inner is embedding for inner in module.modules())
    ]
    return min(around, key=lambda module: sum(1 for _ in module.modules()))
