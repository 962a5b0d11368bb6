"""Former names: they work for one minor version, with a warning, and are then refused with what to write instead."""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple


class Former(NamedTuple):
    """What took the place of a public name, and the version in which it did: Former("load", "0.2")."""

    new: str
    since: str

    @property
    def removed_in(self) -> str:
        """The first version that refuses the former name: the second minor version with the new one."""
        major, minor = _minor(self.since)
        return f"{major}.{minor + 1}"

    def require_current(self, name: str, version: str, *, stacklevel: int = 2) -> None:
        """Warn that `name` was replaced, while `version` still takes it.

        Raises AttributeError afterwards. `stacklevel`: the caller to whom the warning belongs, as in `warnings.warn`.
        """
        if _minor(version) >= _minor(self.removed_in):
            raise AttributeError(f"there is no {name} since version {self.removed_in}; write {self.new} instead")
        message = f"{name} is {self.new} since version {self.since}, and version {self.removed_in} refuses it"
        warnings.warn(message, DeprecationWarning, stacklevel=stacklevel + 1)


def _minor(version: str) -> tuple[int, int]:
    """Return major and minor number of `0.2`, `0.2.1` or `0.2.0rc1`."""
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    return major, minor
