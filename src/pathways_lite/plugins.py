"""Plugins: what other packages offer by entry points, imported when a recipe or a command names it.

A package declares in its pyproject.toml, for example,

    [project.entry-points."pathways_lite.optimizers"]
    sign_sgd = "my_package:SignSGD"

The entry's name is the one by which recipes and commands choose it. What is built in comes first, so no plugin changes
what an existing name means.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Group = Literal["optimizers", "schedules", "growth", "reweighting", "trackers", "sources", "laws", "tasks"]
PREFIX = "pathways_lite."


@dataclass(frozen=True)
class Plugin:
    """One entry of a group of entry points."""

    group: Group
    entry: EntryPoint
    rivals: tuple[str, ...] = ()  # other packages that offer the same name

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def package(self) -> str:
        """Name and version of the distribution: `my-package 1.0`."""
        distribution = self.entry.dist
        return "a package" if distribution is None else f"{distribution.name} {distribution.version}"

    def load(self) -> Any:
        """Import what the entry names. Raises UserError where that fails, or two packages offer the name."""
        if self.rivals:
            packages = " and ".join((self.package, *self.rivals))
            raise UserError(f"{packages} both offer {self.name!r} in {PREFIX}{self.group}; remove one of them")
        try:
            return self.entry.load()
        except Exception as error:
            raise UserError(
                f"{self.name!r} of {self.package} ({PREFIX}{self.group}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def source(self) -> str:
        """Distribution, version and a digest of all files of its package: `my-package 1.0 (3fa9c1d20b7e)`."""
        return f"{self.package} ({_package_digest(self.entry.module.partition('.')[0])})"


@functools.cache
def plugins(group: Group) -> dict[str, Plugin]:
    """Return the installed plugins of a group by name; nothing of them is imported."""
    from importlib.metadata import entry_points

    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=f"{PREFIX}{group}"), key=lambda entry: (entry.name, entry.value)):
        new = Plugin(group, entry)
        if (known := found.get(entry.name)) is not None and known.entry != entry:
            new = Plugin(group, known.entry, (*known.rivals, new.package))
        found[entry.name] = new
    return found


@functools.cache
def _package_digest(package: str) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a package's files, or of a module's one file."""
    spec = importlib.util.find_spec(package)
    digest = hashlib.sha256()
    for root in () if spec is None else spec.submodule_search_locations or [spec.origin or ""]:
        for path in _files(Path(root)):
            name = path.name if path == Path(root) else path.relative_to(root).as_posix()
            content = path.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


class WithPlugins[T](Mapping[str, T]):
    """What is built in by name, and then the plugins of a group, each imported when it is looked up.

    `check` raises UserError for a plugin that is not what the group is for.
    """

    def __init__(self, built_in: Mapping[str, T], group: Group, check: Callable[[Plugin, Any], T]) -> None:
        self._built_in, self._group, self._check = built_in, group, check

    def __getitem__(self, name: str) -> T:
        if name in self._built_in:
            return self._built_in[name]
        plugin = plugins(self._group)[name]
        return self._check(plugin, plugin.load())

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in plugins(self._group)

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from (name for name in plugins(self._group) if name not in self._built_in)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def require_instance(plugin: Plugin, value: Any, kind: type, name: str) -> Any:
    """Return what a plugin offers. Raises UserError where it is no `kind` that is called as its entry, by `name`."""
    if not isinstance(value, kind) or name != plugin.name:
        raise UserError(
            f"{plugin.name!r} of {plugin.package} ({PREFIX}{plugin.group}) is {type(value).__name__} {name!r}; "
            f"a {kind.__name__} named {plugin.name!r} is expected there"
        )
    return value
