"""The runner of a study: trains all nodes that are not done, also next to other runners."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pathways_lite.run_lock import InUseError, RunLock, find_holder
from pathways_lite.signals import StopSignals
from pathways_lite.studies.executor import Executor, Job
from pathways_lite.studies.progress import StudyProgress
from pathways_lite.studies.store import Failure, StudyStore
from pathways_lite.studies.study import Node

_POLL = 0.2  # seconds between polls of the running jobs
_CLAIM_RETRY = 5.0  # seconds until a node that another process holds is tried again


@dataclass
class Outcome:
    """The outcome of a runner."""

    trained: list[str] = field(default_factory=list)  # by this runner
    failed: dict[str, Failure] = field(default_factory=dict)
    held_up: list[str] = field(default_factory=list)  # they wait for failed nodes
    signal_status: int = 0  # 128 + n after signal n

    @property
    def exit_status(self) -> int:
        return self.signal_status or (1 if self.failed else 0)


@dataclass
class _Running:
    """A node that is being trained; its claim is released when it ends."""

    job: Job
    claim: RunLock
    stopping: bool = False


class Runner:
    """Trains the nodes of a store until no node is left that can be trained."""

    def __init__(self, store: StudyStore, executor: Executor, progress: StudyProgress) -> None:
        self.store, self.executor, self.progress = store, executor, progress
        self.outcome = Outcome()
        self._running: dict[str, _Running] = {}
        self._pending = dict(store.nodes)  # not known to be done, failed or held up
        self._retry_claim_at: dict[str, float] = {}  # monotonic time of the next try, for nodes held by another process
        self._started = time.time()

    def run(self) -> Outcome:
        """Train all nodes that can be trained. The first SIGTERM or SIGINT is passed on: every node saves and ends."""
        with StopSignals(lambda: "every node saves a checkpoint and stops") as signals, self.progress:
            try:
                while self._pending:
                    if signals.requested:
                        self._stop_running()
                    else:
                        self._start_ready_nodes()
                    self._poll_running()
                    if signals.requested and not self._running:
                        break
                    self.progress.show(self.store, list(self._running))
                    time.sleep(_POLL)
            finally:
                self._stop_running()
                while self._running:
                    self._poll_running()
                    time.sleep(_POLL)
            self.outcome.signal_status = signals.exit_status
        return self.outcome

    # ---- starting ----

    def _start_ready_nodes(self) -> None:
        for identity, node in list(self._pending.items()):
            if identity in self._running:
                continue
            if self.store.stage_directory(identity).is_finished:
                self._close_node(identity, f"{node.label}: done")
            elif node.parent in self.outcome.failed or node.parent in self.outcome.held_up:
                self.outcome.held_up.append(identity)
                self._close_node(identity, f"{node.label}: waits for a failed node ({node.parent})")
            elif node.parent not in self._pending:
                self._try_to_start(identity, node)

    def _try_to_start(self, identity: str, node: Node) -> None:
        if len(self._running) >= self.executor.slots or time.monotonic() < self._retry_claim_at.get(identity, 0.0):
            return
        claim = self._claim_node(identity, node)
        if claim is None:
            return
        failure = self.store.failure(identity)
        if self.store.stage_directory(identity).is_finished:  # by the runner that held the claim until now
            claim.release()
        elif failure is not None and failure.ended > self._started:
            claim.release()
            self._record_failed(identity, node, failure)
        else:
            self.store.clear_failure(identity)
            run = self.store.prepare(identity)
            self._running[identity] = _Running(self.executor.start(run, self.store.output_path(identity)), claim)
            self.progress.note(f"{node.label}: started ({identity})")

    def _claim_node(self, identity: str, node: Node) -> RunLock | None:
        """Claim the node; None if another runner holds it, or if a process of an earlier runner still trains it."""
        claim = RunLock(self.store.claim_directory(identity), note=lambda line: None)
        with contextlib.suppress(InUseError):
            claim.acquire()
            if find_holder(self.store.run_directory(identity).path) is None:
                return claim
            claim.release()
        if identity not in self._retry_claim_at:
            self.progress.note(f"{node.label}: another process trains it; waiting for that process")
        self._retry_claim_at[identity] = time.monotonic() + _CLAIM_RETRY
        return None

    # ---- ending ----

    def _poll_running(self) -> None:
        for identity, running in list(self._running.items()):
            status = running.job.poll()
            if status is None:
                continue
            del self._running[identity]
            node = self.store.nodes[identity]
            if self.store.stage_directory(identity).is_finished:
                self.outcome.trained.append(identity)
                self._close_node(identity, f"{node.label}: done")
            elif running.stopping:
                self._close_node(identity, f"{node.label}: stopped")
            else:
                self._record_failed(identity, node, self.store.record_failure(identity, status))
            running.claim.release()

    def _record_failed(self, identity: str, node: Node, failure: Failure) -> None:
        self.outcome.failed[identity] = failure
        self._close_node(identity, f"{node.label}: failed, {failure.reason}")

    def _close_node(self, identity: str, message: str) -> None:
        self._pending.pop(identity, None)
        self.progress.note(message)

    def _stop_running(self) -> None:
        for running in self._running.values():
            if not running.stopping:
                running.stopping = True
                running.job.stop()


def report_failures(store: StudyStore, outcome: Outcome, write: Callable[[str], None]) -> None:
    """Report every failed node with the end of its output, and the nodes that wait for failed ones."""
    for identity, failure in outcome.failed.items():
        label, output = store.nodes[identity].label, store.output_path(identity)
        write(f"\n{label} failed ({identity}, {failure.reason}). The end of {output}:\n{failure.tail}")
    for identity in outcome.held_up:
        write(f"{store.nodes[identity].label} ({identity}) waits for a failed node.")
