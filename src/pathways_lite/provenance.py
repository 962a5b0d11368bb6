"""What a run was started with: code, environment, devices, command, host and time, as JSON values.

    time, command, directory, host, user
    git          of the user's files (where the recipe is): root, commit, dirty, changes (a digest of the difference
                 from the commit), changed_files; absent outside of a repository
    package      version of pathways_lite; commit, dirty, ... as above where it is a checkout
    environment  digest of all installed packages with their versions, their number, and the versions that matter most
    device       platform, kind, count, processes

    recipe_file  of the file that the recipe was read from: path, digest of its content, and whether git tracks it

Other files that git does not track do not make a working tree dirty: the resolved recipe is kept with the run.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pathways_lite.version import __version__

Provenance = dict[str, Any]

MAIN_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "grain", "numpy")
_GIT_SECONDS = 10.0  # a repository of terabytes or on a slow network must not keep a run from starting
_CHANGED_FILES = 20  # listed at most

# The index is not refreshed, no monitor is started, and nothing of a repository's settings is run to show a difference.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")


def gather_provenance(source: Path, device: Mapping[str, Any]) -> Provenance:
    """Gather the provenance of this process; `source` is the file of the user's recipe, or the directory that it is in.

    Where it is not in a git repository, the working directory is looked at. `device`: what JAX computes on.
    """
    git = _checkout(source if source.is_dir() else source.parent) or _checkout(Path.cwd())
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["pathways-lite", *sys.argv[1:]]),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "user": _user(),
        **({"git": git} if git else {}),
        **({"recipe_file": _recipe_file(source, in_checkout=bool(git))} if source.is_file() else {}),
        "package": {"version": __version__, **_package_checkout()},
        "environment": _environment(),
        "device": dict(device),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())


# ---- git ----


def _checkout(directory: Path) -> dict[str, Any]:
    """Return commit and changes of the repository that holds `directory`; {} where there is none, or no git."""
    root, commit = _git(directory, "rev-parse", "--show-toplevel"), _git(directory, "rev-parse", "HEAD")
    if not root or not commit:
        return {}
    content = {"root": root, "commit": commit}
    status = _git(directory, "status", "--porcelain", "--untracked-files=no")
    if status is None:  # it takes too long
        return content | {"dirty": None}
    if not status:
        return content | {"dirty": False}
    difference = _git(directory, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--binary") or ""
    files = [line[3:] for line in status.splitlines()]
    return content | {"dirty": True, "changes": _digest(difference), "changed_files": files[:_CHANGED_FILES]}


def _recipe_file(path: Path, *, in_checkout: bool) -> dict[str, Any]:
    tracked = in_checkout and _git(path.parent, "ls-files", "--error-unmatch", path.name) is not None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return {"path": str(path), "digest": digest, **({"tracked": tracked} if in_checkout else {})}


def _package_checkout() -> dict[str, Any]:
    """Return commit and changes of this package, {} where it is installed: then no repository tracks it."""
    package = Path(__file__).parent
    if _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    return _checkout(package)


def _git(directory: Path, *arguments: str) -> str | None:
    """Return what git prints, without the last line break; None where it fails."""
    command = [*_GIT, "-C", str(directory), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, check=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode(errors="replace").rstrip("\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


# ---- the environment ----


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of all installed packages by normalized name; a process does not see those installed after its start."""
    return {(one.name or "").lower().replace("_", "-"): one.version for one in distributions()}


def _environment() -> dict[str, Any]:
    versions = _versions()
    lines = sorted(f"{name}=={version}" for name, version in versions.items())
    return {
        "digest": _digest("\n".join(lines)),
        "packages": len(lines),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: versions[name] for name in MAIN_PACKAGES if name in versions},
    }


# ---- for people ----


def describe_provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the provenance as pairs of a name and a text, in the order in which people ask."""
    environment = dict(provenance.get("environment", {}))
    digest, packages = environment.pop("digest", None), environment.pop("packages", None)
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    device = provenance.get("device", {})
    user, host = provenance.get("user"), provenance.get("host")
    pairs = [
        ("time", provenance.get("time")),
        ("command", provenance.get("command")),
        ("directory", provenance.get("directory")),
        ("host", f"{user}@{host}" if host else None),
        ("git", _describe_checkout(provenance.get("git", {}))),
        ("recipe file", _describe_file(provenance.get("recipe_file", {}))),
        ("pathways-lite", _describe_package(provenance.get("package", {}))),
        ("environment", f"{versions}; {packages} packages, digest {digest}" if digest else None),
        ("device", _describe_device(device) if device else None),
    ]
    return [(name, str(text)) for name, text in pairs if text]


def _describe_checkout(checkout: Mapping[str, Any]) -> str:
    if not checkout.get("commit"):
        return ""
    state = {True: "changed", False: "clean", None: "not known whether changed"}[checkout.get("dirty")]
    files = checkout.get("changed_files")
    changed = f": {', '.join(files)} (changes {checkout.get('changes')})" if files else ""
    return f"{checkout['commit'][:12]} of {checkout.get('root')}, {state}{changed}"


def _describe_file(file: Mapping[str, Any]) -> str:
    if not file:
        return ""
    untracked = ", which git does not track" if file.get("tracked") is False else ""
    return f"{file.get('path')}{untracked} (digest {file.get('digest')})"


def _describe_package(package: Mapping[str, Any]) -> str:
    checkout = _describe_checkout(package)
    return f"{package.get('version', '')}{f', checkout {checkout}' if checkout else ''}"


def _describe_device(device: Mapping[str, Any]) -> str:
    processes = f" in {device['processes']} processes" if device.get("processes", 1) > 1 else ""
    return f"{device.get('count')} x {device.get('kind')} ({device.get('platform')}){processes}"


_OWN_TO_EACH_START = {"time", "command", "directory", "git.root", "git.changed_files", "package.root"}


def provenance_differences(all_of: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return where several provenances differ, by path; what differs between any two starts is left out.

    None stands for what is not known of one of them.
    """
    flat = [_flatten(provenance) for provenance in all_of]
    paths = [path for path in dict.fromkeys(path for one in flat for path in one) if not _is_own(path)]
    values = {path: [one.get(path) for one in flat] for path in paths}
    return {path: row for path, row in values.items() if any(value != row[0] for value in row)}


def _is_own(path: str) -> bool:
    # What differs in the recipes is told beside it; their files need not say the same.
    return path in _OWN_TO_EACH_START or path.startswith(("package.changed_files", "recipe_file."))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
