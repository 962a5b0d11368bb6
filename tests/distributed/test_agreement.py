"""Processes that differ are told so, each of them, before they wait for each other."""

from pathlib import Path

import pytest

from pathways_lite.distributed.agreement import require_same, require_shared_directory

CHECK = """
from pathlib import Path
from pathways_lite.distributed import agreement
from pathways_lite.errors import UserError
agreement.VISIBLE = 0.5
def refused(check, *arguments):
    try:
        check(*arguments)
        print("agreed")
    except UserError as error:
        print(" | ".join(str(error).splitlines()), error.status)
"""

SETTINGS = (
    CHECK
    + """
same = {"seed": 1, "stages.base.saving.every": 500}
refused(agreement.require_same, same)
refused(agreement.require_same, same | ({"stages.base.saving.every": 100} if index == 1 else {}))
refused(agreement.require_same, same | ({"stages.base.pruning": "x"} if index else {}))
refused(agreement.require_same, {f"field{k}": index for k in range(10)})
refused(agreement.require_same, same)
coordination.shutdown()
"""
)


def test_what_differs_is_named_with_both_values_in_all_processes(start_group):
    outputs = [output.splitlines()[-5:] for output in start_group(SETTINGS, 3, 1).wait()]
    assert outputs[0] == outputs[1] == outputs[2]
    agreed, changed, added, many, again = outputs[0]
    assert agreed == again == "agreed"
    assert changed.endswith("|   stages.base.saving.every: 500 in process 0, 100 in process 1 2")
    assert "stages.base.pruning: None in process 0, 'x' in process 1" in added
    assert "'x' in process 2" in added
    assert many.endswith("and 15 more 2")


DIRECTORY = (
    CHECK
    + """
import sys
shared, own = map(Path, sys.argv[4:])
refused(agreement.require_shared_directory, shared)
path = own / str(index)
if index == 0:
    path.mkdir(parents=True)
refused(agreement.require_shared_directory, path)
coordination.shutdown()
"""
)


def test_a_run_directory_that_another_process_does_not_see_is_refused(start_group, tmp_path: Path):
    (tmp_path / "shared").mkdir()
    outputs = [o.splitlines()[-2:] for o in start_group(DIRECTORY, 2, 1, tmp_path / "shared", tmp_path / "own").wait()]
    for seen, unseen in outputs:
        assert seen == "agreed"
        assert unseen.startswith("process 1 on ")
        assert "does not see the run directory of process 0" in unseen
        assert "a file system that their hosts share" in unseen
    assert not list((tmp_path / "shared").iterdir()), "nothing is left there"
    assert not list((tmp_path / "own/0").iterdir())


def test_one_process_always_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pathways_lite.distributed.coordination.gather_and_decide", None)
    require_same({"seed": float("nan")})
    require_shared_directory(tmp_path / "missing")
