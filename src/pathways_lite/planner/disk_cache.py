"""Disk cache of results that take minutes to compute."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pathways_kernels
import pathways_lite
from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.paths import user_cache

STEP = (
    "pathways_kernels",
    "pathways_lite/models",
    "pathways_lite/training",
    "pathways_lite/batch.py",
    "pathways_lite/chips.py",
    "pathways_lite/ledger.py",
    "pathways_lite/parallel",
    "pathways_lite/planner/chips.py",
)
"""Source files that a compiled step depends on, besides its recipe, machine and options."""

KERNELS = (
    "pathways_kernels/attention",
    "pathways_lite/chips.py",
    "pathways_lite/planner/kernel_estimates.py",
    "pathways_lite/planner/chips.py",
)
"""Source files that a kernel estimate depends on."""


def cached(kind: str, key: Mapping[str, Any], make: Callable[[], Any], *, code: tuple[str, ...] = STEP) -> Any:
    """Return the cached result of `make()` (JSON) for `key`, or call it and cache its result.

    A change of the source files `code` or of a compiler's version invalidates it. The cache is in
    `$XDG_CACHE_HOME/pathways-lite` (by default ~/.cache). Nothing is cached if `make` raises, or if that directory
    cannot be written.
    """
    content = json.dumps({"key": key, "code": code_identity(code)}, sort_keys=True)
    path = user_cache() / kind / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.json"
    try:
        return json.loads(path.read_text())["value"]
    except (OSError, ValueError, KeyError):
        pass
    value = make()
    text = json.dumps({"key": key, "value": value})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text, shared=True)
    return value


@functools.cache
def code_identity(code: tuple[str, ...] = STEP) -> dict[str, str]:
    """Return the versions of the compilers, and a digest of our packages, subpackages or files in `code`."""
    digest = hashlib.sha256()
    roots = {Path(package.__file__ or "").parent for package in (pathways_lite, pathways_kernels)}
    for path in code:
        root = next(root for root in roots if path.split("/")[0] == root.name).parent
        files = sorted((root / path).rglob("*.py")) or [root / path]
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    packages = ("jax", "jaxlib", "libtpu", "flax", "optax")
    return {"sources": digest.hexdigest(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
