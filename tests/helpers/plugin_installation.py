"""The package of `tests/plugins/plugin_package`, installed as an installer does, without one."""

import shutil
import sys
import tomllib
from pathlib import Path

from pathways_lite import plugins

PACKAGE = Path(__file__).parents[1] / "plugins" / "plugin_package"


def forget() -> None:
    """Let the next look-up find what is installed then."""
    plugins.plugins.cache_clear()
    plugins._package_digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "demo_plugin"]:
        del sys.modules[name]


def write_installation(target: Path, version: str = "1.0", name: str = "demo-plugin") -> None:
    """Write the package and its metadata as an installer does."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "demo_plugin", target / "demo_plugin", dirs_exist_ok=True)
    metadata = target / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{entry} = {place}" for entry, place in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
