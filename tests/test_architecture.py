"""The house's rules: imports point one way, files stay small, one room imports Orbax."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])

# A room may import only itself and the rooms named here (kernels, errors and libraries aside).
BOTTOM = {
    "errors", "chips", "console", "paths", "recipe", "ledger", "batch", "keyed", "atomic_file", "cpu_cores",
    "json_values", "provenance", "document_frame", "checkpoint_names", "accelerators", "cgroups", "compilation_cache",
    "machine", "host_memory", "samples_manifest", "version", "extras", "plugins",
}  # fmt: skip
MAY_IMPORT = {
    "errors": set(),
    "deprecation": set(),
    "lazy": {"deprecation"},
    "chips": set(),
    "console": set(),
    "paths": {"errors"},
    "suffixes": set(),
    "version": set(),
    "extras": set(),
    "plugins": {"errors"},
    "shipped_recipes": {"errors", "paths"},
    "recipe": {"errors", "paths", "atomic_file", "suffixes", "shipped_recipes", "plugins"},
    "ledger": {"recipe"},
    "batch": set(),
    "keyed": set(),
    "intervals": set(),
    "json_values": set(),
    "provenance": {"version"},
    "document_frame": set(),
    "checkpoint_names": set(),
    "atomic_file": set(),
    "accelerators": set(),
    "cgroups": set(),
    "host_memory": set(),
    "cpu_cores": {"cgroups", "errors"},
    "machine": {"cpu_cores"},
    "samples_manifest": {"errors"},
    "compilation_cache": {"machine", "paths"},
    "distributed": {"errors", "console", "signals"},
    "checkpoints": {
        "errors",
        "console",
        "paths",
        "checkpoint_names",
        "keyed",
        "atomic_file",
        "parallel",
        "distributed",
    },
    "run_lock": {"errors", "console"},
    "output_lock": {"run_lock"},
    "signals": set(),
    "run_directory": BOTTOM,
    "run_history": {"errors", "json_values"},
    "parallel": BOTTOM,
    "models": BOTTOM | {"parallel"},
    "objectives": BOTTOM | {"models"},
    "tasks": {"errors", "recipe", "keyed", "atomic_file", "run_lock", "plugins"},  # without JAX
    "data": BOTTOM | {"lazy", "objectives", "distributed", "parallel", "run_lock"},
    "methods": BOTTOM | {"models"},
    "sampling": BOTTOM | {"parallel", "models", "objectives"},
    "evaluation": BOTTOM | {"parallel", "models", "objectives", "data", "sampling", "tasks"},
    "tracking": BOTTOM | {"run_directory", "run_history"},
    "scaling": {"errors", "paths", "atomic_file", "intervals", "json_values", "ledger", "run_directory", "tracking"}
    | {"suffixes", "version", "extras", "plugins"},
    "judging": {"errors", "paths", "atomic_file", "keyed", "intervals", "json_values", "scaling", "tasks", "tracking"}
    | {"samples_manifest"},
    "training": BOTTOM
    | {"parallel", "distributed", "models", "objectives", "data", "methods", "sampling", "evaluation", "tracking"}
    | {"tasks"}
    | {"checkpoints", "run_lock", "signals", "run_directory", "run_history"},
    "harness": {"errors", "console", "recipe", "data", "evaluation", "objectives", "sampling", "training"},
    "conversion": BOTTOM | {"models", "data", "methods", "checkpoints", "training", "output_lock"},
    "planner": BOTTOM | {"parallel", "models", "tracking", "training"},
    "comparison": BOTTOM | {"intervals", "tracking", "run_directory"},
    "runs": BOTTOM | {"comparison", "tracking", "studies", "checkpoints", "run_lock", "run_directory", "run_history"},
    "studies": BOTTOM | {"comparison", "intervals", "tracking", "training", "run_lock", "signals", "run_directory"},
    "library": BOTTOM
    | {"distributed", "models", "data", "sampling", "evaluation", "training", "conversion", "scaling", "studies"}
    | {"signals", "run_directory", "output_lock"},
    "testing": BOTTOM | {"models", "methods", "data", "evaluation", "tracking", "training", "scaling", "tasks"},
}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that the file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide which way they point"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "pathways_lite" and len(parts) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    imports = imported_modules(path)
    if relative.parts[0] == "kernels":
        assert not any(name.split(".")[0] == "pathways_lite" for name in imports), "kernels know nothing of the stack"
        return
    room = relative.parts[2].removesuffix(".py")
    if room in ("__init__", "__main__", "cli"):
        return
    allowed = MAY_IMPORT[room] | {room}
    wrong = {name for name in imports if (other := room_of(name)) is not None and other not in allowed}
    assert not wrong, f"{relative} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, "over 400 lines a file has become two rooms"


def test_only_one_room_imports_orbax() -> None:
    users = {path for path in SOURCES if any(name.startswith("orbax") for name in imported_modules(path))}
    rooms = {path.relative_to(ROOT / "src" / "pathways_lite").parts[0].removesuffix(".py") for path in users}
    assert rooms == {"checkpoints"}
