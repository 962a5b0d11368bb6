"""Callbacks with which a caller watches or disturbs a run."""

from __future__ import annotations

from pathways_lite.batch import Batch


class TrainerHooks:
    """Callbacks of the loop that do nothing: subclass and override them to watch or disturb a run.

    Every process calls them, on the thread that trains. An exception ends the run as a crash would.
    """

    def before_step(self, stage: str, step: int, batch: Batch) -> Batch:
        """Return the batch to train on at `step`, given this process's rows of it in host memory."""
        return batch

    def after_step(self, stage: str, step: int) -> None:
        """Called when `step` steps have been started."""

    def after_evaluation(self, stage: str, step: int) -> None:
        """Called when the evaluation after `step` steps is complete and logged."""

    def after_save(self, stage: str, step: int) -> None:
        """Called when the checkpoint of `step` has been handed to the background."""

    def stop_requested(self) -> int:
        """Return the number of a signal to stop as if it had arrived, or 0."""
        return 0
