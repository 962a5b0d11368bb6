"""Multi-process coordination: join the processes of a run, and let them agree on small values.

Every process runs the same code. Values go through JAX's coordination service (a key-value store in process 0), never
through the devices: a background thread may use it while the main thread trains, and no step waits for it. Values are
small JSON; arrays are never sent.

With one process nothing is started, no backend is touched, and every function returns at once.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EADDRINUSE
from typing import Any

import jax

from pathways_lite.console import print_line
from pathways_lite.distributed.private_jax import coordination_client, detect_cluster
from pathways_lite.errors import TRY_AGAIN, UnreachableError, UserError

PATIENCE = 3600.0
"""Seconds until a process that does not reach a rendezvous counts as lost. Process 0 may draw pictures meanwhile."""

HEARTBEAT = "PATHWAYS_LITE_HEARTBEAT_TIMEOUT"
"""Environment variable: seconds until the others notice that a process is gone, and end; 100 if unset."""

_CONNECT = 300  # seconds to find each other
_FREE_PORT = 15  # seconds for a run that ends to free the coordinator's port
_NOTE_AFTER = 10.0  # seconds without an answer of process 0, after which a waiting process says so
_WAIT_SLICE = 10.0  # seconds of one blocking call, between which signals and exceptions are handled


@dataclass
class _Group:
    """This process's place in the group of processes."""

    index: int = 0
    count: int = 1
    client: Any = None  # of JAX's coordination service
    rendezvous: dict[str, itertools.count] = field(default_factory=lambda: defaultdict(itertools.count))


_group = _Group()


# ---- start and end ----


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes, as given by the arguments or else by Slurm, Open MPI, GKE or a TPU pod.

    Call it before anything touches a device. Raises UserError if the arguments are incomplete, UnreachableError if the
    other processes do not answer.
    """
    device_ids = None
    if (coordinator, processes, process) == (None, None, None):
        coordinator, processes, process, device_ids = _detect_cluster()
    else:
        _check_arguments(coordinator, processes, process)
    if processes is None or process is None or processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its SIGTERM handler would replace ours, and it does not handle SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if process:
            _wait_for_coordinator(str(coordinator))
        else:
            _wait_for_free_port(str(coordinator))
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local_device_ids=device_ids,
            initialization_timeout=_CONNECT,
            heartbeat_timeout_seconds=_heartbeat_timeout(),
        )
    except (OSError, RuntimeError) as error:
        raise UnreachableError(
            f"process {process} of {processes} could not join the others at {coordinator}: "
            f"{str(error).splitlines()[0]}. Is process 0 running there, is its port free and open, and was every "
            f"process started with the same number of processes?"
        ) from error
    _group.index, _group.count = process, processes
    _group.client = coordination_client()


def shutdown() -> None:
    """Wait for the others and leave the group. Process 0 must leave last: it hosts the coordination service."""
    if _group.count == 1:
        return
    barrier("leave")
    jax.distributed.shutdown()
    _group.index, _group.count, _group.client = 0, 1, None
    _group.rendezvous.clear()


def _detect_cluster() -> tuple[str | None, int | None, int | None, Any]:
    """Return the cluster that this process is in: coordinator, count, index, device ids."""
    try:
        return detect_cluster(_CONNECT)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # an incomplete environment
        raise UserError(
            f"the cluster's environment does not say who the other processes are ({error!r}); give --coordinator "
            f"HOST:PORT --processes N --process I"
        ) from error


def _heartbeat_timeout() -> int:
    text = os.environ.get(HEARTBEAT, "100")
    if not text.isdecimal() or not int(text):
        raise UserError(f"{HEARTBEAT}={text} must be a whole number of seconds")
    return int(text)


def _wait_for_coordinator(coordinator: str) -> None:
    """Wait until process 0 listens. Raises OSError if it does not in time; JAX's own client would abort instead."""
    host, _, port = coordinator.rpartition(":")
    start, noted = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT_SLICE).close()
            return
        except OSError:
            waited = time.monotonic() - start
            if waited > _CONNECT:
                raise
        if waited > _NOTE_AFTER and not noted:
            noted = True
            print_line(f"waiting for process 0 at {coordinator} (for {_CONNECT} s at most)")
        time.sleep(0.1)


def _wait_for_free_port(coordinator: str) -> None:
    """Wait until process 0 can listen. Raises UnreachableError if it cannot in time; JAX's service would crash."""
    port = int(coordinator.rpartition(":")[2])
    family, any_address = (socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "")
    end = time.monotonic() + _FREE_PORT
    while True:
        with socket.socket(family) as probe:  # it never listens: another process could take it for the coordinator
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                probe.bind((any_address, port))
                return
            except OSError as error:
                if error.errno != EADDRINUSE:
                    raise
                if time.monotonic() > end:
                    raise UnreachableError(
                        f"process 0 cannot listen on port {port} of this host, which another program uses; end that "
                        "program, or give all processes another port in --coordinator HOST:PORT"
                    ) from error
        time.sleep(0.2)


def _check_arguments(coordinator: str | None, processes: int | None, process: int | None) -> None:
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if processes == 1 and process in (None, 0):
        return
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: processes started by hand need --coordinator HOST:PORT "
            f"--processes N --process I; under Slurm, Open MPI, GKE and on TPU pods leave out all three"
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator {coordinator} must be HOST:PORT, a free port on the host of process 0")
    if not 0 <= process < processes:
        raise UserError(f"--process {process} must be from 0 to {processes - 1}, as --processes is {processes}")


# ---- identity ----


def process_index() -> int:
    """Return the index of this process."""
    return _group.index


def process_count() -> int:
    """Return the number of processes."""
    return _group.count


def is_primary() -> bool:
    """Return True in process 0, which writes logs and shows progress."""
    return _group.index == 0


# ---- rendezvous ----


class RemoteProcessError(UserError):
    """An action of all processes failed in another process; the message is that process's."""

    def __init__(self, text: str, errno: int | None = None, status: int = TRY_AGAIN) -> None:
        super().__init__(text)
        self.errno, self.status = errno, status


def gather_and_decide(value: Any, decide: Callable[[list[Any]], Any], *, channel: str = "main") -> Any:
    """Gather every process's `value` and return `decide(values)`, the same result in all processes.

    Values are ordered by process index. Values and result are JSON. All processes must reach the rendezvous of a
    channel in the same order; concurrent threads use different channels. Process 0 decides; an exception of `decide`
    is raised there, and in the others as a RemoteProcessError. Raises UnreachableError if a process does not arrive
    within `PATIENCE` seconds.
    """
    if _group.count == 1:
        return decide([value])
    key = f"{channel}/{next(_group.rendezvous[channel])}"
    if _group.index:
        _group.client.key_value_set(f"{key}/{_group.index}", json.dumps(value))
        reply = json.loads(_wait_for(f"{key}/reply", 0))
        if "error" in reply:
            raise RemoteProcessError(**reply["error"])
        return reply["result"]
    try:
        values = [value, *(json.loads(_wait_for(f"{key}/{peer}", peer)) for peer in range(1, _group.count))]
        text = json.dumps({"result": decide(values)})
    except Exception as error:
        _group.client.key_value_set(f"{key}/reply", json.dumps({"error": _error_to_json(error)}))
        raise
    _group.client.key_value_set(f"{key}/reply", text)
    _delete_previous(key)
    return json.loads(text)["result"]


def run_on_all(
    action: Callable[[], Any], decide: Callable[[list[Any]], Any] = lambda results: None, *, channel: str = "main"
) -> Any:
    """Run `action` in every process and return `decide(results)` once all are done; see `gather_and_decide`.

    An exception in one process is raised in all: as it is where it occurred, as a RemoteProcessError in the others.
    """
    own_error: Exception | None = None
    try:
        outcome = {"result": action()}
    except Exception as error:
        own_error, outcome = error, {"error": _error_to_json(error)}

    def combine(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
        failed = [outcome for outcome in outcomes if "error" in outcome]
        return failed[0] if failed else {"result": decide([outcome["result"] for outcome in outcomes])}

    reply = gather_and_decide(outcome, combine, channel=channel)
    if own_error is not None:
        raise own_error
    if "error" in reply:
        raise RemoteProcessError(**reply["error"])
    return reply["result"]


def max_over_processes(value: int) -> int:
    """Return the maximum of all processes' values."""
    return int(gather_and_decide(value, max))


def run_on_primary(action: Callable[[], Any]) -> Any:
    """Run `action` in process 0 only and return its result (JSON) in all; its exception is raised in all."""
    return run_on_all(lambda: action() if is_primary() else None, lambda results: results[0])


def barrier(channel: str = "main") -> None:
    """Wait until every process has reached this call."""
    gather_and_decide(None, lambda _: None, channel=channel)


def _error_to_json(error: Exception) -> dict[str, Any]:
    status = error.status if isinstance(error, UserError) else TRY_AGAIN
    return {"text": str(error) or repr(error), "errno": getattr(error, "errno", None), "status": status}


def _delete_previous(key: str) -> None:
    """Delete the previous rendezvous of the channel: every process that reached this one has read its reply."""
    channel, _, number = key.rpartition("/")
    if int(number):
        _group.client.key_value_delete(f"{channel}/{int(number) - 1}/")


def _wait_for(key: str, process: int) -> str:
    """Wait for `process` to set `key`, and return its value."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return str(_group.client.blocking_key_value_get(key, int(min(_WAIT_SLICE, PATIENCE) * 1000)))
        except RuntimeError as error:  # jaxlib's; it has no public subclass
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if time.monotonic() > end:
            raise UnreachableError(f"process {process} did not reach the rendezvous {key} within {PATIENCE:.0f} s")


# ---- publish and poll, without a rendezvous ----


def publish(topic: str, text: str) -> None:
    """Publish `text` under `topic` for the other processes to `poll`; overwrites what this process published before."""
    if _group.client is not None:
        _group.client.key_value_set(f"topics/{topic}/{_group.index}", text, allow_overwrite=True)


def poll(topic: str) -> dict[int, str]:
    """Return what the processes have published under `topic` so far, by process index."""
    if _group.client is None:
        return {}
    entries = _group.client.key_value_dir_get(f"topics/{topic}/")
    return {int(key.rpartition("/")[2]): text for key, text in entries}
