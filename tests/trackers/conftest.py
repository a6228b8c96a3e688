"""A run on disk, as the tests of `run` have it."""

from tests.run.conftest import make_run, no_hook, root

__all__ = ["make_run", "no_hook", "root"]
