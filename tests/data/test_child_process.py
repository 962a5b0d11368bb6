"""Worker processes end with their parent."""

import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import multiprocessing, time
from pathways_lite.data.child_process import end_with_parent

def work():
    end_with_parent()
    time.sleep(600)

if __name__ == "__main__":
    end_with_parent()  # of no effect here
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    print(worker.pid, flush=True)
    worker.join()
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = Path(f"/proc/{parent.stdout.readline().strip()}/stat")
    assert worker.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    # A worker that nobody waits for is a zombie where the first process of a container adopts and ignores it.
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
