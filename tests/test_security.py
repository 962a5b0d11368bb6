"""SECURITY.md says what can run code; here are the calls that could, all of them, and files that try."""

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pathways_lite.data.held_out_text import HeldOutText
from pathways_lite.data.shards import Shard
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe
from pathways_lite.studies import load_study

ROOT = Path(__file__).parent.parent

RUNS_CODE = {
    "conversion/torch_files.py": {"torch.load"},  # weights_only=True, see tests/conversion/test_torch_files.py
    "data/seqio_tasks.py": {"runpy.run_path", "importlib.import_module"},  # --import
    "lazy.py": {"importlib.import_module"},  # public names, of modules of this package
    "recipe/load.py": {"runpy.run_path"},  # recipes and studies in Python
    "studies/slurm.py": {"pickle_load"},  # submitit's results
    "testing/command_plugins.py": {"pickle.loads"},  # what the same test has pickled
}
"""By file of the package: calls that run what a file says, or read what may."""

DANGEROUS = {
    "eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module", "importlib.import_module",
    "pickle.load", "pickle.loads", "pickle_load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "joblib.load", "torch.load", "dill.loads", "cloudpickle.loads", "os.system", "os.popen",
}  # fmt: skip


def dangerous_calls(path: Path) -> set[str]:
    """Calls of `DANGEROUS` in the file, other than imports of a module that is written out, and what allows pickles."""
    calls = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).replace("self._torch.", "torch.")
        constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
        if name in DANGEROUS and not (name == "importlib.import_module" and constant):
            calls.add(name)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
            calls.add(ast.unparse(node))
        if name == "torch.load" and "weights_only=True" not in path.read_text():
            calls.add("torch.load without weights_only")
    return calls


def test_code_is_run_in_these_places_only() -> None:
    package = ROOT / "src" / "pathways_lite"
    calls = {path.relative_to(package).as_posix(): dangerous_calls(path) for path in sorted(package.rglob("*.py"))}
    assert {file: names for file, names in calls.items() if names} == RUNS_CODE
    page = (ROOT / "SECURITY.md").read_text()
    assert all(
        word in page for word in ("--allow-torch", "--import", "FILE.py", "submitit", "`!function`", "entry point")
    )


def test_kernels_import_modules_of_their_own_only() -> None:
    kernels = {path: dangerous_calls(path) for path in (ROOT / "kernels").rglob("*.py")}
    assert {path.name: names for path, names in kernels.items() if names} == {"api.py": {"importlib.import_module"}}
    assert 'importlib.import_module(f"pathways_kernels.attention.{name}")' in next(
        path.read_text() for path in kernels if path.name == "api.py" and path.parent.name == "attention"
    )


class Bomb:
    """Makes a file when it is read from a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def test_pickles_in_arrays_are_refused(tmp_path: Path) -> None:
    hostile = np.empty(1, object)
    hostile[0] = Bomb(tmp_path / "exploded")
    np.savez(tmp_path / "bomb.npz", meta=hostile, tokens=hostile, domain=hostile, content=hostile)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Shard.load(tmp_path / "bomb.npz", tokens=True)
    with pytest.raises(UserError, match="allow_pickle=False"):
        HeldOutText.from_bytes((tmp_path / "bomb.npz").read_bytes(), ByteTokenizer(), DocumentFrame(256), "it")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(hostile[0]))
    assert (tmp_path / "exploded").exists(), "it would have been seen"


def test_a_recipe_in_json_runs_nothing(tmp_path: Path) -> None:
    """Also where it is Python, and where a study is expected, which has no JSON."""
    file = tmp_path / "recipe.json"
    file.write_text(f"import os\nos.mkdir({str(tmp_path / 'exploded')!r})\n")
    for load in (load_recipe, load_study):
        with pytest.raises(UserError):
            load(file)
        assert not (tmp_path / "exploded").exists(), load.__name__
