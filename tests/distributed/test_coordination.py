"""Coordination of several real processes, and of one, which must start nothing."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from pathways_lite.distributed import coordination
from pathways_lite.errors import UnreachableError, UserError

AGREE = """
from pathways_lite.errors import UnreachableError, UserError
import threading
print(coordination.process_index(), coordination.process_count(), coordination.is_primary())
gathered = coordination.gather_and_decide({"my": index}, lambda values: [value["my"] for value in values])
print(gathered, coordination.max_over_processes(index * 7 % 5))
print(coordination.run_on_primary(lambda: f"from {coordination.process_index()}"))

# Two threads rendezvous concurrently, on different channels.
def others():
    for k in range(20):
        assert coordination.gather_and_decide(index + k, sum, channel="other") == 3 + 3 * k
thread = threading.Thread(target=others)
thread.start()
for k in range(20):
    assert coordination.gather_and_decide(index * k, max) == 2 * k
thread.join()

def fail_in_one():
    if index == 1:
        raise OSError(28, "No space left on device")
try:
    coordination.run_on_all(fail_in_one)
except Exception as error:
    print(type(error).__name__, error.errno, error)

coordination.publish("stop", str(index))
coordination.barrier()
print(coordination.poll("stop"), coordination.poll("nothing"))
assert not coordination._group.client.key_value_dir_get("other/0"), "old rendezvous are deleted"
coordination.shutdown()
print(coordination.process_count())
"""


def test_three_processes_agree(start_group):
    outputs = [output.splitlines()[-6:] for output in start_group(AGREE, 3, 1).wait()]
    assert [lines[0] for lines in outputs] == ["0 3 True", "1 3 False", "2 3 False"]
    assert {lines[1] for lines in outputs} == {"[0, 1, 2] 4"}
    assert {lines[2] for lines in outputs} == {"from 0"}
    errors = [
        f"{kind} 28 [Errno 28] No space left on device"
        for kind in ("RemoteProcessError", "OSError", "RemoteProcessError")
    ]
    assert [lines[3] for lines in outputs] == errors
    assert {lines[4] for lines in outputs} == {"{0: '0', 1: '1', 2: '2'} {}"}
    assert {lines[5] for lines in outputs} == {"1"}


LATE = """
coordination.PATIENCE = 1.0
if index == 0:
    try:
        coordination.barrier()
    except Exception as error:
        print(type(error).__name__, error)
else:
    import time
    time.sleep(5)
"""


def test_a_process_that_does_not_arrive_is_named(start_group):
    output = start_group(LATE, 2, 1).wait()[0]
    assert "UnreachableError process 1 did not reach the rendezvous main/0/1 within 1 s" in output


ALONE = """
import jax
from pathways_lite.distributed import coordination
coordination.initialize()
assert (coordination.process_index(), coordination.process_count(), coordination.is_primary()) == (0, 1, True)
assert (coordination.gather_and_decide(3, sum), coordination.poll("x")) == (3, {})
assert coordination.run_on_primary(lambda: {"any": (1, 2)}) == {"any": (1, 2)}
coordination.barrier()
coordination.publish("x", "y")
assert not jax._src.xla_bridge.backends_are_initialized(), "no device was touched"
assert not jax.distributed.is_initialized(), "nothing was started"
coordination.shutdown()
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "n1",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
        },
    ],
    ids=["nothing detected", "a Slurm step of one task"],
)
def test_one_process_starts_nothing(environment):
    subprocess.run([sys.executable, "-c", ALONE], env=os.environ | environment, check=True, timeout=120)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {
                "SLURM_JOB_ID": "4096",
                "SLURM_STEP_NODELIST": "tpu[07-09]",
                "SLURM_NTASKS": "3",
                "SLURM_PROCID": "2",
                "SLURM_LOCALID": "0",
            },
            ("tpu07:61440", 3, 2, [0]),
        ),
        (
            {
                "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.5:5000",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            },
            ("10.0.0.5", 4, 1, [1]),
        ),
    ],
    ids=["Slurm", "Open MPI"],
)
def test_launchers_are_detected(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    address, *others = coordination._detect_cluster()
    assert address.startswith(expected[0])
    assert tuple(others) == expected[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", None, None), "--processes and --process missing"),
        ((None, 4, 1), "--coordinator missing"),
        (("localhost", 4, 1), "must be HOST:PORT"),
        (("localhost:1234", 4, 4), "--process 4 must be from 0 to 3, as --processes is 4"),
    ],
)
def test_incomplete_flags_are_a_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        coordination.initialize(*arguments)
    assert coordination.process_count() == 1


def test_one_of_one_needs_no_coordinator():
    coordination.initialize(None, 1, 0)
    assert coordination.process_count() == 1


NOBODY = """
from pathways_lite.errors import UnreachableError, UserError
from pathways_lite.distributed import coordination
import sys
coordination._CONNECT = 2
try:
    coordination.initialize(sys.argv[1], 2, 1)
except UserError as error:
    print(error)
"""


def test_an_unreachable_coordinator_is_a_sentence(free_port):
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, f"localhost:{free_port}"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("process 1 of 2 could not join the others at localhost:"), done.stderr


# ---- the coordinator's port ----


@pytest.fixture(params=["0.0.0.0", "127.0.0.1", "::"])
def listener(request: pytest.FixtureRequest):
    """Another program that listens."""
    family = socket.AF_INET6 if request.param == "::" else socket.AF_INET
    try:
        listening = socket.create_server((request.param, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no address {request.param}: {error}")
    with listening:
        yield listening


def test_a_port_that_another_program_uses_is_a_sentence(listener, monkeypatch):
    monkeypatch.setattr(coordination, "_FREE_PORT", 0.1)
    port = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"port {port} of this host, which another program uses") as refused:
        coordination.initialize(f"localhost:{port}", 2, 0)
    assert refused.value.status == 75


def test_a_port_that_becomes_free_is_waited_for(listener):
    threading.Timer(0.3, listener.close).start()
    coordination._wait_for_free_port(f"localhost:{listener.getsockname()[1]}")
