"""List the files of a directory: through links, but each once, and without token stores."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathways_lite.data.documents import Skipped, printable

_Identity = tuple[int, int]


@dataclass
class Listing:
    """The files below a directory, in the order of their names, and what was left out."""

    names: list[Path] = field(default_factory=list)  # relative to the directory
    left_out: list[Skipped] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)  # links that lead out of the directory, and where to


def list_directory(root: Path, outputs: Sequence[Path] = ()) -> Listing:
    """List the files below `root` whose names, and whose directories' names, do not begin with a dot.

    Links are followed after everything else, so that a file or directory that they lead to is not read twice. Links
    that lead nowhere or to a directory around them are left out, and so are token stores, `outputs`, and their
    temporary files.
    """
    walk = _Walk(root, outputs)
    walk.visit(root, Path())
    while walk.links:
        walk.links.sort()
        walk.follow(walk.links.pop(0))
    walk.listing.names.sort()
    return walk.listing


def is_token_store(directory: Path) -> bool:
    """Say whether a directory is a token store, or the unfinished work of one."""
    if (directory / "plan.json").is_file() and directory.name.endswith(".building"):
        return True
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"fingerprint", "tokenizer_kind", "eod"} <= manifest.keys()


class _Walk:
    def __init__(self, root: Path, outputs: Sequence[Path]) -> None:
        self.listing = Listing()
        self.links: list[Path] = []
        self._root = root
        real_root = root.resolve()
        self._real_root = real_root
        self._directories = {_identity(directory.stat()) for directory in real_root.parents}
        self._files: set[_Identity] = set()
        self._outputs = [os.path.join(os.path.realpath(path.parent), path.name) for path in outputs]  # noqa: PTH118

    def visit(self, directory: Path, name: Path) -> None:
        """List a directory and all below it."""
        directories = [(directory, name)]
        while directories:
            directory, name = directories.pop()
            identity = _identity(directory.stat())
            if identity in self._directories:
                self._leave_out(directory, "a directory that is read in another place", 0)
                continue
            self._directories.add(identity)
            real = os.path.realpath(directory)
            try:
                entries = list(os.scandir(directory))
            except OSError as error:
                self._leave_out(directory, f"the directory cannot be read ({error.strerror})")
                continue
            for entry in entries:
                if entry.name.startswith(".") or self._is_output(f"{real}/{entry.name}"):
                    continue
                path, entry_name = directory / entry.name, name / entry.name
                if entry.is_symlink():
                    self.links.append(entry_name)
                elif entry.is_dir():
                    if is_token_store(path):
                        self._leave_out(path, "a token store, not text", 0)
                    else:
                        directories.append((path, entry_name))
                elif entry.is_file():
                    self._files.add(_identity(entry.stat()))
                    self.listing.names.append(entry_name)
                else:
                    self._leave_out(path, "neither a file nor a directory")

    def follow(self, name: Path) -> None:
        """List what a link leads to."""
        path = self._root / name
        try:
            target = path.resolve(strict=True)
            stat = target.stat()
        except (OSError, RuntimeError):
            self._leave_out(path, f"a link that leads nowhere (to {printable(str(path.readlink()))})")
            return
        if self._is_output(str(target)):
            return
        if target.is_dir():
            if _identity(stat) in self._directories:
                self._leave_out(path, "a link to a directory that is read in another place, or around it", 0)
                return
            if is_token_store(target):
                self._leave_out(path, "a link to a token store, not text", 0)
                return
            self._note(path, target)
            self.visit(path, name)
        elif target.is_file():
            if _identity(stat) in self._files:
                self._leave_out(path, "a link to a file that is read in another place", 0)
                return
            self._files.add(_identity(stat))
            self._note(path, target)
            self.listing.names.append(name)
        else:
            self._leave_out(path, "a link to what is neither a file nor a directory")

    def _note(self, path: Path, target: Path) -> None:
        if not target.is_relative_to(self._real_root):
            self.listing.followed.append(f"{printable(str(path))} -> {printable(str(target))}")

    def _is_output(self, real_path: str) -> bool:
        return any(
            real_path == output or real_path.startswith((f"{output}.building", f"{output}.lock", f"{output}.tmp"))
            for output in self._outputs
        )

    def _leave_out(self, path: Path, reason: str, documents: int = 1) -> None:
        self.listing.left_out.append(Skipped(f"{printable(str(path))}: {reason}", documents))


def _identity(stat: os.stat_result) -> _Identity:
    return stat.st_dev, stat.st_ino
