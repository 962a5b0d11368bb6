"""Coordinated stopping: all processes stop after the same step, and none waits for one that has failed."""

import pytest

from pathways_lite.distributed import coordination, stopping
from pathways_lite.distributed.stopping import Stop
from pathways_lite.errors import MISTAKE, TRY_AGAIN


def test_one_process_decides_alone():
    signals = [0]
    stop = Stop(lambda: signals[0])
    assert (stop.should_stop(), stop.pending_signal, stop.exit_status) == (0, 0, 0)
    signals[0] = 15
    assert (stop.pending_signal, stop.exit_status) == (15, 0)  # no call has decided to stop yet
    assert (stop.should_stop(), stop.exit_status) == (15, 143)


def rendezvous_steps(monkeypatch, seconds_per_step, steps):
    """Return the steps at which processes rendezvous, of `steps` that take `seconds_per_step` each."""
    now, met, step = [0.0], [], [0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(coordination, "process_count", lambda: 2)
    stop = Stop(lambda: 0)

    def gather_and_decide(value, decide):
        met.append(step[0])
        return decide([value, 0])

    monkeypatch.setattr(coordination, "gather_and_decide", gather_and_decide)
    for step[0] in range(steps):
        assert stop.should_stop() == 0
        now[0] += seconds_per_step
    return met


def test_rendezvous_are_about_a_second_apart(monkeypatch):
    fast = rendezvous_steps(monkeypatch, 0.01, 1000)
    assert fast[:3] == [0, 1, 101]
    assert len(fast) < 15
    assert rendezvous_steps(monkeypatch, 30.0, 10) == list(range(10))


def test_a_slower_pace_takes_effect_at_once(monkeypatch):
    """Calls during an evaluation may be a hundred times as far apart as those of the steps before it."""
    now, met = [0.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(coordination, "process_count", lambda: 2)
    monkeypatch.setattr(
        coordination, "gather_and_decide", lambda value, decide: met.append(now[0]) or decide([value, 0])
    )
    stop = Stop(lambda: 0)
    for seconds in (0.01, 2.0):
        stop.reset_interval()
        for _ in range(20):
            stop.should_stop()
            now[0] += seconds
    assert len(met) == 2 + 20


STOP_TOGETHER = """
import time
from pathways_lite.distributed.stopping import Stop
stop = Stop(lambda: 15 if index == 1 and step == 7 or index == 1 and step > 7 else 0)
for step in range(100_000):
    if stop.should_stop():
        print("stopped at", step, stop.exit_status)
        break
    time.sleep(0.01 if index else 0.002)
coordination.shutdown()
"""


def test_a_signal_of_one_stops_all_at_the_same_step(start_group):
    outputs = [output.splitlines()[-1] for output in start_group(STOP_TOGETHER, 2, 1).wait()]
    assert outputs[0] == outputs[1]
    assert outputs[0].endswith(" 143")
    assert 7 <= int(outputs[0].split()[2]) < 500


FAILING = """
import os, sys, time
from pathways_lite.distributed.stopping import Stop
from pathways_lite.distributed.monitor import FailureMonitor, announce_failure
with FailureMonitor(Stop(lambda: 0)):
    coordination.barrier()
    if index == 2:
        text, status = arguments
        print("shown", announce_failure(text, int(status)), flush=True)
        os._exit(9)
    time.sleep(60)
"""


@pytest.mark.parametrize(("status", "remote_status"), [(1, TRY_AGAIN), (MISTAKE, MISTAKE)])
def test_a_failure_of_one_ends_all(start_group, status, remote_status):
    """Only if it is a mistake should the launcher not start them again."""
    group = start_group(FAILING, 3, 1, "what has happened", status)
    outputs = group.wait(60)
    assert group.statuses == [remote_status, remote_status, 9]
    assert "process 2 has failed: what has happened" in outputs[0]
    assert "what has happened" not in outputs[1], "it is printed once"
    assert outputs[2].splitlines()[-1] == "shown True", "and by the process that failed"


SAME = """
import os
from pathways_lite.distributed.monitor import announce_failure
coordination.barrier()
print("shown", announce_failure("the same" if arguments[0] == "same" else f"of {index}", 2), flush=True)
os._exit(2)
"""


def test_a_shared_failure_is_shown_once(start_group):
    shown = [output.splitlines()[-1] for output in start_group(SAME, 3, 1, "same").wait()]
    assert shown == ["shown True", "shown False", "shown False"]
    shown = [output.splitlines()[-1] for output in start_group(SAME, 2, 1, "different").wait()]
    assert shown == ["shown True", "shown True"]
