"""What this package takes from JAX that is not public, all of it; another version of JAX may lack it without notice.

Hence JAX's upper bound in pyproject.toml. A test holds that nothing else of `jax._src` is used in the package, and that
these are as they are used here, so it fails first where a new version of JAX is tried.
"""

from __future__ import annotations

from typing import Any


def coordination_client() -> Any:
    """Return the client of the coordination service that `jax.distributed.initialize` has started.

    JAX's public API offers barriers and broadcasts only as programs on the devices; the service's key-value store lets
    background threads agree while the main thread trains.
    """
    from jax._src import distributed

    return distributed.global_state.client


def detect_cluster(timeout: int) -> tuple[str | None, int | None, int | None, Any]:
    """Return what `jax.distributed.initialize()` would find out: coordinator, process count, index, local device ids.

    All are None outside of a cluster. JAX's function cannot be kept from starting the service for a single process.
    `timeout`: seconds. Raises what JAX's detection raises where an environment is incomplete.
    """
    from jax._src.clusters import ClusterEnv

    return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)
