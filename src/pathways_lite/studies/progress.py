"""The progress display of a study: a bar per node in training on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pathways_lite.console import Console
from pathways_lite.studies.store import StudyStore, read_tail
from pathways_lite.tracking.log import LOG

_LINE_INTERVAL = 10.0  # seconds between plain lines
_REFRESH_INTERVAL = 1.0  # seconds between reads of the logs


@dataclass(frozen=True)
class NodeProgress:
    """The last logged step of a node and the mean loss since the row before."""

    step: int
    loss: float


def read_progress(store: StudyStore, identity: str) -> NodeProgress:
    """Read the progress of a node from the last complete row of a training step in its log."""
    path = store.stage_directory(identity).path / LOG
    # Rows of evaluations with many domains and denoisers are long: further back where the end has nothing else.
    for lines in (8, 80, 800, 8000):
        for line in reversed(read_tail(path, lines).splitlines()):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.get("kind") == "train":
                loss = row.get("mean_loss", row.get("loss"))  # as the node's own progress line
                return NodeProgress(int(row.get("step", 0)), loss if isinstance(loss, float) else math.nan)
    return NodeProgress(0, math.nan)


class StudyProgress:
    """The progress display of a study. A context manager; `steps` are the total steps of each node."""

    def __init__(self, steps: dict[str, int], console: Console) -> None:
        self.console, self._steps = console, steps
        terminal = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, refresh_per_second=2) if terminal else None
        self._shown = 0.0
        self._noted: dict[str, int] = {}  # the step of a node's last line

    def note(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(line), soft_wrap=True)

    def show(self, store: StudyStore, running: Sequence[str]) -> None:
        """Show the nodes in training, unless the display was just refreshed."""
        now = time.monotonic()
        if now - self._shown < (_REFRESH_INTERVAL if self._live else _LINE_INTERVAL):
            return
        self._shown = now
        progress = {identity: read_progress(store, identity) for identity in running}
        if self._live is not None:
            self._live.update(self._table(store, progress))
            return
        for identity, node in progress.items():
            if self._noted.get(identity) == node.step:  # the same line again would tell nothing
                continue
            self._noted[identity] = node.step
            step = f"step {node.step:,}/{self._steps[identity]:,}, loss {node.loss:.4f}"
            self.note(f"{store.nodes[identity].label}: {step if node.step else 'preparing'}")

    def _table(self, store: StudyStore, progress: dict[str, NodeProgress]) -> Table:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, justify="right")
        for identity, node in progress.items():
            total = self._steps[identity]
            bar = ProgressBar(total=total, completed=min(node.step, total))
            loss = f"  loss {node.loss:.4f}" if math.isfinite(node.loss) else ""
            table.add_row(Text(store.nodes[identity].label, style="bold"), bar, f"{node.step:,}/{total:,}{loss}")
        return table

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
