"""Public names of a package that are imported when they are first used (PEP 562), and former ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pathways_lite.deprecation import Former


def attach(
    package: str, places: Mapping[str, str], former: Mapping[str, Former] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package.

    Args:
      package: its `__name__`.
      places: public name -> `module:name`, or a module alone.
      former: former name -> what took its place; these work with a warning for one minor version.
    """
    renamed = dict(former or {})

    def get(name: str) -> Any:
        if name in renamed:
            version = sys.modules[package.partition(".")[0]].__version__
            renamed[name].require_current(f"{package}.{name}", version)
            return getattr(sys.modules[package], renamed[name].new)
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        module, _, attribute = places[name].partition(":")
        value = importlib.import_module(module)
        value = getattr(value, attribute) if attribute else value
        setattr(sys.modules[package], name, value)  # asked for once
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *places})
