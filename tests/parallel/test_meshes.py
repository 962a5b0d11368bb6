"""Training on meshes of eight simulated devices equals training on one device, with the collectives expected."""

import json

import pytest

from helpers.eight_devices import run_on_eight_devices

MESHES = ("fsdp", "data", "tensor", "context", "fsdp x tensor", "fsdp x context", "context x tensor",
          "pod x fsdp x tensor", "data x context x tensor")  # fmt: skip
VARIANTS = ("fsdp, in slices", "fsdp x tensor, adamw", "fsdp x tensor, adafactor", "fsdp x tensor, reweighted",
            "fsdp, reweighted in slices", "fsdp, a selection", "fsdp x tensor, smoothed",
            "fsdp x tensor, frozen in part", "data x context x tensor, observed",
            "fsdp, observed in slices")  # fmt: skip
FAMILIES = ("context x tensor, gemma", "tensor, olmo", "data x fsdp x tensor, neox")


def outcomes(*cases: str) -> dict:
    return json.loads(run_on_eight_devices("train", *cases))


@pytest.fixture(scope="module")
def trained() -> dict:
    return outcomes(*MESHES)


@pytest.mark.parametrize("mesh", MESHES)
def test_loss_gradients_and_training_are_those_of_one_device(trained: dict, mesh: str) -> None:
    """SGD at rate 1: the parameters move by the gradients. Rows hold two documents, the first with a prefix."""
    assert trained[mesh]["metrics"] < 1e-5
    assert trained[mesh]["state"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families_too(family: str) -> None:
    outcome = outcomes(family)[family]
    assert outcome["metrics"] < 1e-5
    assert outcome["state"] < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_microbatches_windows_dropout_and_moments_match_one_device_too(variant: str) -> None:
    outcome = outcomes(variant)[variant]
    assert outcome["metrics"] < 1e-5
    assert outcome["state"] < 1e-4  # moments divide small gradients by small numbers


LAYERS, WEIGHTS = 2, 7

# PaLM's block under full recomputation, by the axis that shards the arrays of its products.
OF_WEIGHTS = {
    "all-gather": 2 * LAYERS * WEIGHTS + 1 + 1,  # forward and again backward; the head; the tokens to look up
    "reduce-scatter": LAYERS * WEIGHTS + 1,  # their gradients
    "all-to-all": 2,  # embedded tokens, and their gradients
}
OF_THE_STREAM = {
    "all-gather": 3 * LAYERS + 2,  # what a block reads, forward and again; the gradient of what it adds; cross-entropy
    "reduce-scatter": 2 * LAYERS + 2,  # what a block adds, the gradient of what it reads; embedding; cross-entropy
}
OF_KEYS = {"all-gather": 2 * 2 * LAYERS, "reduce-scatter": 2 * LAYERS}  # keys and values


def on(axis: str, *parts: dict[str, int]) -> dict[str, int]:
    return {f"{kind} {axis}": sum(p.get(kind, 0) for p in parts) for kind in {kind for p in parts for kind in p}}


@pytest.mark.parametrize(
    ("mesh", "predicted"),
    [
        ("fsdp", on("fsdp", OF_WEIGHTS)),
        ("context", on("context", OF_WEIGHTS, OF_KEYS)),
        ("fsdp x tensor", on("fsdp", OF_WEIGHTS) | on("tensor", OF_THE_STREAM)),
        ("context x tensor", on("context", OF_WEIGHTS, OF_KEYS) | on("tensor", OF_THE_STREAM)),
    ],
)
def test_the_step_runs_the_expected_collectives(trained: dict, mesh: str, predicted: dict) -> None:
    """Counts of arrays of at least 1 KiB. Only gradients of norms and of replicated heads are all-reduced."""
    sent = trained[mesh]["collectives"]
    assert {name: count for name, count in sent.items() if not name.startswith("all-reduce")} == predicted
    assert sum(count for name, count in sent.items() if name.startswith("all-reduce")) <= 2 * LAYERS


def test_replicas_send_only_gradients(trained: dict) -> None:
    assert set(trained["data"]["collectives"]) == {"all-reduce data"}


@pytest.mark.parametrize("mesh", MESHES)
def test_replicas_stay_equal_bit_for_bit(trained: dict, mesh: str) -> None:
    """In both pods of PaLM's mesh, too (section 4)."""
    assert trained[mesh]["copies_equal"]


@pytest.mark.parametrize("mesh", ["fsdp", "context", "fsdp x tensor", "context x tensor", "pod x fsdp x tensor"])
def test_nothing_is_replicated_by_accident(trained: dict, mesh: str) -> None:
    """Only vectors (scales of norms, the random key) are on every device."""
    assert {name.rsplit(".", 1)[-1] for name in trained[mesh]["whole"]} <= {"scale", "key"}


def test_key_and_value_heads_that_do_not_divide_are_replicated(trained: dict) -> None:
    kernels = {name for name in trained["tensor"]["whole"] if not name.endswith(("scale", "key"))}
    assert kernels == {"params.layers.attention.k", "params.layers.attention.v"}
