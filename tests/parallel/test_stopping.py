"""One signal, one step: all processes stop where they can be together, and none waits for one that has failed."""

from pathways_lite.parallel import hosts, stopping
from pathways_lite.parallel.stopping import Stop


def test_one_process_asks_itself():
    signals = [0]
    stop = Stop(lambda: signals[0])
    assert (stop.requested, stop.heard, stop.exit_status) == (0, 0, 0)
    signals[0] = 15
    assert (stop.requested, stop.heard, stop.exit_status) == (15, 15, 143)


def meetings(monkeypatch, seconds_per_step, steps):
    """At which of `steps` questions processes meet, where a step takes so long."""
    now, met, asked = [0.0], [], [0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(hosts, "count", lambda: 2)
    stop = Stop(lambda: 0)

    def together(value, decide):
        met.append(asked[0])
        return decide([value, 0])

    monkeypatch.setattr(hosts, "together", together)
    for asked[0] in range(steps):
        assert stop.requested == 0
        now[0] += seconds_per_step
    return met


def test_they_meet_about_once_a_second(monkeypatch):
    fast = meetings(monkeypatch, 0.01, 1000)
    assert fast[:3] == [0, 1, 101]
    assert len(fast) < 15
    assert meetings(monkeypatch, 30.0, 10) == list(range(10))


TOGETHER = """
import time
from pathways_lite.parallel.stopping import Stop
stop = Stop(lambda: 15 if index == 1 and step == 7 or index == 1 and step > 7 else 0)
for step in range(100_000):
    if stop.requested:
        print("stopped at", step, stop.exit_status)
        break
    time.sleep(0.01 if index else 0.002)
hosts.leave()
"""


def test_a_signal_of_one_stops_all_at_the_same_step(start_group):
    outputs = [output.splitlines()[-1] for output in start_group(TOGETHER, 2, 1).wait()]
    assert outputs[0] == outputs[1]
    assert outputs[0].endswith(" 143")
    assert 7 <= int(outputs[0].split()[2]) < 500


FAILING = """
import os, sys, time
from pathways_lite.parallel.stopping import Stop
from pathways_lite.parallel.vigil import Vigil, farewell
with Vigil(Stop(lambda: 0)):
    hosts.barrier()
    if index == 2:
        text = arguments[0]
        print("shown", farewell(text), flush=True)
        os._exit(9)
    time.sleep(60)
"""


def test_a_failure_of_one_ends_all(start_group):
    group = start_group(FAILING, 3, 1, "what has happened")
    outputs = group.wait(60)
    assert group.statuses == [2, 2, 9]
    assert "process 2 has failed: what has happened" in outputs[0]
    assert "what has happened" not in outputs[1], "it is told once"
    assert outputs[2].splitlines()[-1] == "shown True", "and where it happened"


SAME = """
import os
from pathways_lite.parallel.vigil import farewell
hosts.barrier()
print("shown", farewell("the same" if arguments[0] == "same" else f"of {index}"), flush=True)
os._exit(2)
"""


def test_what_all_have_failed_with_is_shown_once(start_group):
    shown = [output.splitlines()[-1] for output in start_group(SAME, 3, 1, "same").wait()]
    assert shown == ["shown True", "shown False", "shown False"]
    shown = [output.splitlines()[-1] for output in start_group(SAME, 2, 1, "different").wait()]
    assert shown == ["shown True", "shown True"]
