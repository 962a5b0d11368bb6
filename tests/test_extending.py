"""The examples of docs/extending.md, applied to a copy of the package and checked there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
DIFF = re.compile(r"```diff (\S+)\n(.*?)```", re.DOTALL)
CHECK = re.compile(r"```python check\n(.*?)```", re.DOTALL)


def apply_diff(path: Path, diff: str) -> None:
    """Replace the lines without `+` by those without `-`, which have to be in the file once; or write a new file."""
    lines = diff.splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    if not path.exists():
        assert not old, f"{path.name} does not exist"
        path.write_text(new + "\n")
        return
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has these lines {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new))


def test_the_examples_of_the_page_work_as_they_stand(tmp_path: Path) -> None:
    package = tmp_path / "src" / "pathways_lite"
    shutil.copytree(ROOT / "src" / "pathways_lite", package, ignore=shutil.ignore_patterns("__pycache__"))
    diffs, checks = DIFF.findall(PAGE), CHECK.findall(PAGE)
    assert len(diffs) > 30
    assert len(checks) == 10
    for file, diff in diffs:
        apply_diff(package / file, diff)
    script = "\n".join(f"def check_{number}():\n" + indented(check) for number, check in enumerate(checks))
    script += "".join(f"check_{number}()\n" for number in range(len(checks)))
    environment = os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


def indented(code: str) -> str:
    """Indent code by four spaces, for the body of a function."""
    return "".join(f"    {line}\n" for line in code.splitlines())
