"""An old adapter's ``adapter_model.bin``, which is a pickle, read without running it here."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sapwood.data.files.convert import Confined, confined
from sapwood.errors import ModelError

READER = "sapwood.adapter.elsewhere.unpickle"


def pickled_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises ModelError if the file holds more than tensors, or if this system can't
    confine a process."""
    from safetensors.torch import load

    mend = "save it once more with a newer PEFT, if you trust its origin"
    try:
        return load(confined(READER, file))
    except Confined as error:
        raise ModelError(f"{file.name} is refused", str(file), str(error), mend) from None
