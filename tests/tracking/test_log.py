import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.json_values import restore_floats, to_json_types
from pathways_lite.tracking.log import LOG, TIMINGS, NullLog, RunLog, read_log


def write_rows(log: RunLog, first: int, last: int) -> None:
    for step in range(first, last + 1):
        log.row("train", step, tokens=step * 64, loss=np.float32(1) / np.float32(step))
        log.timing("train", step, seconds=0.5 * step)
        if step % 4 == 0:
            log.row("eval", step, tokens=step * 64, domains={"code": {"loss": np.float64(2) / 3}})


@given(st.floats(width=32))
def test_float32_reads_back_exactly_and_is_written_short(value: float) -> None:
    written = json.loads(json.dumps(to_json_types(np.float32(value)), allow_nan=False))
    read = np.float32(restore_floats(written))
    assert read.tobytes() == np.float32(value).tobytes() or (math.isnan(value) and math.isnan(read))
    if math.isfinite(value):
        assert len(Decimal(repr(written)).normalize().as_tuple().digits) <= 9


@given(st.floats())
def test_float64_reads_back_exactly(value: float) -> None:
    for scalar in (value, np.float64(value)):
        read = restore_floats(json.loads(json.dumps(to_json_types(scalar), allow_nan=False)))
        assert read == value or (math.isnan(value) and math.isnan(read))


def test_scalars_of_every_library_are_written_as_json_numbers() -> None:
    values = [
        np.int64(2**60),
        np.bool_(True),
        jnp.float32(0.1),
        jnp.int32(7),
        ml_dtypes.bfloat16(0.5),
        [np.float32(0.1)],
    ]
    assert to_json_types(values) == [2**60, True, 0.1, 7, 0.5, [0.1]]


def test_an_array_is_refused_rather_than_written_as_text(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log, pytest.raises(TypeError, match="not ndarray"):
        log.row("train", 1, losses=np.zeros(3))


@given(resumed_at=st.integers(0, 12), died_at=st.integers(0, 12), cut=st.integers(0, 80))
def test_a_resumed_log_is_byte_identical(
    tmp_path_factory: pytest.TempPathFactory, resumed_at: int, died_at: int, cut: int
) -> None:
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    with RunLog(whole) as log:
        write_rows(log, 1, 12)
    died_at = max(died_at, resumed_at)
    with RunLog(resumed) as log:
        write_rows(log, 1, died_at)
        kept = sum(len(line) for line in (resumed / LOG).read_bytes().splitlines(True) if _step(line) <= resumed_at)
    # The process died while writing: the file ends anywhere behind the rows that its checkpoint has seen.
    os.truncate(resumed / LOG, max(kept, (resumed / LOG).stat().st_size - cut))
    with RunLog(resumed) as log:
        log.truncate_after(resumed_at)
        write_rows(log, resumed_at + 1, 12)
    assert (resumed / LOG).read_bytes() == (whole / LOG).read_bytes()
    assert read_log(resumed / TIMINGS) == read_log(whole / TIMINGS)


def _step(line: bytes) -> int:
    return int(json.loads(line)["step"])


def test_truncating_keeps_what_happened_to_the_run_itself(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.timing("event", 5, event="interrupt")
        log.timing("train", 5, seconds=1.0)
        log.truncate_after(3)
        log.timing("train", 4, seconds=2.0)
    assert [row["step"] for row in read_log(tmp_path / TIMINGS)] == [5, 4]


def test_rows_are_on_their_way_to_the_disk_at_once(tmp_path: Path) -> None:
    """A process that kills itself without closing anything loses no row."""
    script = f"""
        import os, signal
        from pathways_lite.tracking.log import RunLog
        log = RunLog({str(tmp_path)!r})
        for step in range(100):
            log.row("train", step, loss=step / 7)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["loss"] for row in read_log(tmp_path / LOG)] == [step / 7 for step in range(100)]


@given(st.integers(0, 200))
def test_a_log_cut_anywhere_reads_as_its_complete_rows(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    directory = tmp_path_factory.mktemp("log")
    with RunLog(directory) as log:
        rows = [log.row("train", step, loss=math.nan if step == 2 else 1.5, name="é\u2028") for step in range(4)]
    content = (directory / LOG).read_bytes()[:size]
    (directory / LOG).write_bytes(content)
    found = read_log(directory / LOG)
    assert [to_json_types(row) for row in found] == rows[: content.count(b"\n")]
    assert all(math.isnan(row["loss"]) for row in found if row["step"] == 2)


def test_damage_within_a_log_is_reported_with_its_line(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.row("train", 1)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b"\0\0\0\n" + b'{"kind": "train", "step": 3}\n')
    with pytest.raises(UserError, match=r"log\.jsonl:2 is not a row of a log"):
        read_log(tmp_path / LOG)
    with RunLog(tmp_path) as log, pytest.raises(UserError, match=r"log\.jsonl:2 is not a row of a log"):
        log.truncate_after(1)


def test_no_log_yet_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / LOG) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log._files[LOG])
        os.close(full)
        with pytest.raises(UserError, match="No space left"):
            log.row("train", 1, loss=1.0)


def test_a_silent_log_returns_what_a_log_would(tmp_path: Path) -> None:
    silent = NullLog()
    with RunLog(tmp_path) as log:
        for write in ("row", "timing"):
            rows = [getattr(either, write)("train", 3, loss=np.float32(0.1), ok=True) for either in (log, silent)]
            assert rows[0] == rows[1]
    silent.truncate_after(0)
    silent.sync()
    assert silent.rows() == []
    assert len(log.rows()) == 1
