"""Results that took long to compute, kept on disk between runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pathways_kernels
import pathways_lite


def kept(kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What `make()` gave for an equal key with this code, this jax and this libtpu; JSON.

    Below `$XDG_CACHE_HOME/pathways-lite` (by default ~/.cache). Nothing is kept of a call that raises.
    """
    content = json.dumps({"key": key, "code": code_identity()}, sort_keys=True)
    path = directory() / kind / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.json"
    try:
        return json.loads(path.read_text())["value"]
    except (OSError, ValueError, KeyError):
        pass
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"key": key, "value": value}))
    unfinished.replace(path)
    return value


def directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pathways-lite"


@functools.cache
def code_identity() -> dict[str, str]:
    """Versions of the compilers and a digest of what a train step is made from."""
    digest = hashlib.sha256()
    for package in (pathways_lite, pathways_kernels):
        root = Path(package.__file__ or "").parent
        rooms = ("models", "training", "parallel", "recipe") if package is pathways_lite else ("",)
        for path in sorted(file for room in rooms for file in (root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return {"sources": digest.hexdigest(), **{name: _version(name) for name in ("jax", "jaxlib", "libtpu", "optax")}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
