"""Several processes as one program: how they are started, and how they agree on small things.

Every process runs the same code. What they agree on goes through JAX's coordination service (a key-value store in
process 0), never through the devices: a background thread may ask while the main thread trains, and no step waits
for it. Values are small JSON; arrays stay where they are.

With one process nothing is started, no backend is touched, and everything here answers at once.
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
from typing import Any

import jax

from pathways_lite.errors import TRY_AGAIN, UnreachableError, UserError

# Seconds until a process that does not come to a meeting counts as lost. Process 0 may draw pictures meanwhile.
PATIENCE = 3600.0

HEARTBEAT = "PATHWAYS_LITE_HEARTBEAT_TIMEOUT"
"""Environment variable: seconds until a process that is gone is noticed by the others, which then end; 100 if unset."""

_CONNECT = 300  # seconds to find each other
_SLICE = 10.0  # seconds of one waiting call, after which a signal or an exception gets its turn


@dataclass
class _Group:
    """This process among the others."""

    index: int = 0
    count: int = 1
    client: Any = None  # of JAX's coordination service
    rendezvous: dict[str, itertools.count] = field(default_factory=lambda: defaultdict(itertools.count))


_group = _Group()


# ---- starting ----


def initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes, as the arguments say, or as Slurm, Open MPI, GKE or a TPU pod does.

    To be called before anything touches a device. Raises UserError where the arguments are incomplete,
    UnreachableError where the others do not answer.
    """
    device_ids = None
    if (coordinator, processes, process) == (None, None, None):
        coordinator, processes, process, device_ids = _detected()
    else:
        _check(coordinator, processes, process)
    if processes is None or process is None or processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its SIGTERM handler would take the place of ours, and it knows nothing of SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if process:
            _reach(str(coordinator))
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local_device_ids=device_ids,
            initialization_timeout=_CONNECT,
            heartbeat_timeout_seconds=_heartbeat(),
        )
    except (OSError, RuntimeError) as error:
        raise UnreachableError(
            f"process {process} of {processes} could not join the others at {coordinator}: "
            f"{str(error).splitlines()[0]}. Is process 0 running there, is its port free and open, and was every "
            f"process started with the same number of processes?"
        ) from error
    _group.index, _group.count = process, processes
    # The public API offers this client's barriers and broadcasts only as programs on the devices.
    _group.client = jax._src.distributed.global_state.client


def shutdown() -> None:
    """Wait for the others, and end the group. Process 0 must be the last to go: it holds what they talk through."""
    if _group.count == 1:
        return
    barrier("leave")
    jax.distributed.shutdown()
    _group.index, _group.count, _group.client = 0, 1, None
    _group.rendezvous.clear()


def _detected() -> tuple[str | None, int | None, int | None, Any]:
    """What `jax.distributed.initialize()` would find, asked first: it cannot be told to stay away from one process."""
    from jax._src.clusters import ClusterEnv

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, _CONNECT)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # an environment that says half of it
        raise UserError(
            f"the cluster's environment does not say who the other processes are ({error!r}); give --coordinator "
            f"HOST:PORT --processes N --process I"
        ) from error


def _heartbeat() -> int:
    text = os.environ.get(HEARTBEAT, "100")
    if not text.isdecimal() or not int(text):
        raise UserError(f"{HEARTBEAT}={text} must be a whole number of seconds")
    return int(text)


def _reach(coordinator: str) -> None:
    """Return when process 0 listens. Raises OSError when it does not in time; JAX's own client would abort then."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + _CONNECT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SLICE).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if processes == 1 and process in (None, 0):
        return
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: processes that are started by hand need --coordinator HOST:PORT "
            f"--processes N --process I; under Slurm, Open MPI, GKE and on TPU pods leave out all three"
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator {coordinator} must be HOST:PORT, a free port on the host of process 0")
    if not 0 <= process < processes:
        raise UserError(f"--process {process} must be from 0 to {processes - 1}, as --processes is {processes}")


# ---- who is who ----


def process_index() -> int:
    """This process's number."""
    return _group.index


def process_count() -> int:
    """How many processes there are."""
    return _group.count


def is_primary() -> bool:
    """Whether this is the process that writes logs and shows progress."""
    return _group.index == 0


# ---- agreeing ----


class RemoteProcessError(UserError):
    """What all were doing together has failed in another process; its text is that process's."""

    def __init__(self, text: str, errno: int | None = None, status: int = TRY_AGAIN) -> None:
        super().__init__(text)
        self.errno, self.status = errno, status


def gather_and_decide(value: Any, decide: Callable[[list[Any]], Any], *, channel: str = "main") -> Any:
    """`decide` of every process's `value`, in the order of their numbers: the same result for all of them.

    All processes must come to the same meetings of a channel in the same order; threads that run side by side use
    channels of their own. Process 0 decides; what `decide` raises there is an RemoteProcessError for the others. Values
    and result are JSON. Raises UnreachableError when a process does not come for `PATIENCE` seconds.
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
        values = [value, *(json.loads(_wait_for(f"{key}/{other}", other)) for other in range(1, _group.count))]
        text = json.dumps({"result": decide(values)})
    except Exception as error:
        _group.client.key_value_set(f"{key}/reply", json.dumps({"error": _described(error)}))
        raise
    _group.client.key_value_set(f"{key}/reply", text)
    _forget_before(key)
    return json.loads(text)["result"]


def run_on_all(
    action: Callable[[], Any], decide: Callable[[list[Any]], Any] = lambda results: None, *, channel: str = "main"
) -> Any:
    """Run `action` in every process and return `decide` of the results, once all are done; see `together`.

    An exception of one is everyone's: it is raised where it was as it is, and as an RemoteProcessError in the others.
    """
    mine: Exception | None = None
    try:
        outcome = {"result": action()}
    except Exception as error:
        mine, outcome = error, {"error": _described(error)}

    def look(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
        failed = [found for found in outcomes if "error" in found]
        return failed[0] if failed else {"result": decide([found["result"] for found in outcomes])}

    reply = gather_and_decide(outcome, look, channel=channel)
    if mine is not None:
        raise mine
    if "error" in reply:
        raise RemoteProcessError(**reply["error"])
    return reply["result"]


def max_over_processes(value: int) -> int:
    """The greatest of all processes' values."""
    return int(gather_and_decide(value, max))


def run_on_primary(action: Callable[[], Any]) -> Any:
    """What `action` gives in process 0, and only there, for all; JSON. Its exception is everyone's."""
    return run_on_all(lambda: action() if is_primary() else None, lambda results: results[0])


def barrier(channel: str = "main") -> None:
    """Return when every process is here."""
    gather_and_decide(None, lambda _: None, channel=channel)


def _described(error: Exception) -> dict[str, Any]:
    status = error.status if isinstance(error, UserError) else TRY_AGAIN
    return {"text": str(error) or repr(error), "errno": getattr(error, "errno", None), "status": status}


def _forget_before(key: str) -> None:
    """Process 0 deletes the meeting before this one: whoever has come to this one has read its reply."""
    channel, _, number = key.rpartition("/")
    if int(number):
        _group.client.key_value_delete(f"{channel}/{int(number) - 1}/")


def _wait_for(key: str, other: int) -> str:
    """The value of `key`, which process `other` sets."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return str(_group.client.blocking_key_value_get(key, int(min(_SLICE, PATIENCE) * 1000)))
        except RuntimeError as error:  # jaxlib's, of which no subclass is public
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if time.monotonic() > end:
            raise UnreachableError(f"process {other} did not come to the meeting {key} within {PATIENCE:.0f} s")


# ---- news that comes unasked ----


def publish(topic: str, text: str) -> None:
    """Let the others know, whenever they look: `news(topic)`."""
    if _group.client is not None:
        _group.client.key_value_set(f"news/{topic}/{_group.index}", text, allow_overwrite=True)


def poll(topic: str) -> dict[int, str]:
    """What the processes have told about `topic` so far, by their numbers."""
    if _group.client is None:
        return {}
    found = _group.client.key_value_dir_get(f"news/{topic}/")
    return {int(key.rpartition("/")[2]): text for key, text in found}
