"""Which file of tests a process takes next: the longest, so that none is left alone with one at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

TOGETHER = {  # by what paths begin with: these share a server and a browser, an endpoint, large tokenizers
    "tests/endpoint/test_tokens.py": "tokenizers",
    "tests/endpoint/": "endpoint",
    "tests/page/": "page",
    "tests/template/": "tokenizers",
    "tests/test_recipes.py": "tokenizers",
}
SECONDS = {  # about, of those that take long; others take a tenth for each test
    "page": 250,
    "endpoint": 150,
    "tokenizers": 150,
    "tests/bench/test_bench.py": 90,
    "tests/compute/test_fused.py": 65,
    "tests/train/test_wrappers.py": 50,
    "tests/export/test_expert_files.py": 75,
    "tests/template/test_any_conversation.py": 45,
    "tests/crash/test_processes.py": 65,
    "tests/export/test_whole_models.py": 75,
    "tests/adapter/test_methods.py": 60,
    "tests/export/test_facts.py": 210,
    "tests/export/test_families.py": 300,
    "tests/test_portable.py": 45,
    "tests/export/test_mutations.py": 150,
    "tests/test_cli.py": 45,
    "tests/test_catalogue.py": 45,
    "tests/test_pipeline.py": 45,
    "tests/trackers/test_boards.py": 40,
    "tests/test_notebook.py": 40,
    "tests/test_readme.py": 40,
    "tests/crash/test_operations.py": 40,
    "tests/serve/test_chat.py": 35,
    "tests/export/test_gguf_adapter.py": 35,
    "tests/crash/test_numerics.py": 15,
    "tests/crash/test_soak.py": 30,
    "tests/trackers/test_trackers.py": 30,
    "tests/prepare/test_dataset.py": 30,
    "tests/train/test_trial.py": 30,
    "tests/train/test_architectures.py": 25,
    "tests/trackers/test_follow.py": 20,
    "tests/base/test_hubs.py": 20,
    "tests/train/test_loop.py": 20,
    "tests/parity/test_trainer.py": 15,
    "tests/train/test_alone.py": 15,
    "tests/show/test_mask_page.py": 15,
}


class LongestFirst(LoadScopeScheduling):
    """Each file stays whole, and so does what is to be together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for begins, name in TOGETHER.items() if file.startswith(begins)), file)

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope, len(self.workqueue[scope]) / 10))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
