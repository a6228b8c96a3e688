"""Which file of tests a process takes next: the longest, so that none is left alone with one at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

PAGE = "tests/page"
SECONDS = {  # about, of those that take long; others take a tenth for each test
    PAGE: 200,
}


class LongestFirst(LoadScopeScheduling):
    """Each file stays whole, and so does the folder of the page, whose files share a server and a run."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return PAGE if file.startswith(f"{PAGE}/") else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope, len(self.workqueue[scope]) / 10))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
