"""The frozen base, the adapter on it, and the loss."""

import logging
import sys

from sapwood.base.later import CompiledLater

# PEFT imports bitsandbytes, which tells the terminal that a kernel from a hub isn't installed, and with each
# product that int8 takes its inputs as fp16. Neither message helps anyone here.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)
sys.meta_path.insert(0, CompiledLater())
