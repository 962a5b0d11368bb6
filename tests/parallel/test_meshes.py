"""Training on many meshes of eight simulated devices is training on one device, and sends what it has to, no more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("eight_devices.py")

MESHES = ("fsdp", "data", "tensor", "context", "fsdp x tensor", "fsdp x context", "context x tensor",
          "pod x fsdp x tensor", "data x context x tensor")  # fmt: skip
VARIANTS = ("fsdp, in slices", "fsdp x tensor, adamw", "fsdp x tensor, adafactor")


def outcomes(*cases: str) -> dict:
    done = subprocess.run([sys.executable, str(SCRIPT), *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained() -> dict:
    return outcomes(*MESHES)


@pytest.mark.parametrize("mesh", MESHES)
def test_loss_gradients_and_training_are_those_of_one_device(trained: dict, mesh: str) -> None:
    """SGD at rate 1: the parameters move by the gradients. Rows hold two documents, the first with a prefix."""
    assert trained[mesh]["metrics"] < 1e-5
    assert trained[mesh]["state"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_so_it_is_with_microbatches_windows_dropout_and_moments(variant: str) -> None:
    found = outcomes(variant)[variant]
    assert found["metrics"] < 1e-5
    assert found["state"] < 1e-4  # moments divide small gradients by small numbers


# Two layers, each of 7 weights; a parallel block reads its input once. Adam's or SGD's update sends nothing.
FSDP_OF_PALM = {
    "all-gather fsdp": 30,  # weights of the layers, forward and again backward, the head, and the tokens to look up
    "all-to-all fsdp": 2,  # embedded tokens, and their gradients
    "all-reduce fsdp": 2,  # gradients of the weights, together, per layer
    "reduce-scatter fsdp": 1,  # gradient of the head
}


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ("fsdp", FSDP_OF_PALM),
        # Not one collective per layer: gradients are summed when all are there (and two counts of tokens).
        ("data", {"all-reduce data": 3}),
    ],
)
def test_the_step_sends_what_it_has_to(trained: dict, mesh: str, expected: dict) -> None:
    """Golden counts per step, of arrays of at least 1 KiB, as XLA's CPU compiler leaves them."""
    assert trained[mesh]["collectives"] == expected


@pytest.mark.parametrize("mesh", ["fsdp", "context", "fsdp x tensor", "context x tensor", "pod x fsdp x tensor"])
def test_nothing_is_whole_by_accident(trained: dict, mesh: str) -> None:
    """Only vectors (scales of norms, the random key) are on every device."""
    assert {name.rsplit(".", 1)[-1] for name in trained[mesh]["whole"]} <= {"scale", "key"}


def test_key_and_value_heads_that_do_not_divide_are_whole(trained: dict) -> None:
    kernels = {name for name in trained["tensor"]["whole"] if not name.endswith(("scale", "key"))}
    assert kernels == {"params.layers.attention.k", "params.layers.attention.v"}
