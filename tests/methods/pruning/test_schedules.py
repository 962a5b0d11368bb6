"""Densities in closed form: against published checks, against integration, and against walking the steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.methods.pruning import DensitySchedule, density_phases, num_kept, prune_groups
from pathways_lite.methods.pruning.schedules import mask_updates, round_density
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.recipe import (
    NM,
    AdamW,
    Channels,
    Data,
    Heads,
    Model,
    Prune,
    Ramp,
    Reweighting,
    Stage,
    Steps,
    Tokens,
    TopLosses,
    WholeBlocks,
)
from pathways_lite.scaling.laws.chinchilla import CHINCHILLA
from pathways_lite.scaling.laws.sparse import AVERAGE_PARAMETERS, average_parameters
from pathways_lite.training.stage import stage_timeline, steps_for_sparse_flops

MODEL = Model(d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=100)

QUERIES = lambda prune: prune.model_copy(update={"scope": ("layers.attention.q",)})  # noqa: E731  4 layers of 1024


def timeline(budget=Steps(n=2000), ramp=((0, 4),), flops=1000, parameters=100):  # noqa: B008
    return Timeline(Ramp(steps=ramp), 16, flops, parameters, budget)


prunes = st.builds(
    lambda ends, first, last, shape, compute, edge: Prune(
        begin=min(ends), end=max(ends), start_sparsity=first, sparsity=last, shape=shape, compute=compute, edge=edge
    ),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(0, 0.95),
    st.floats(0, 0.95),
    st.sampled_from(["linear", "cubic", "geometric"]),
    st.sampled_from(["sparse", "dense"]),
    st.sampled_from([None, "right"]),
)


@pytest.mark.parametrize(("sparsity", "compression"), [(0.8, 1.995), (0.6, 1.53), (0.4, 1.28), (0.2, 1.12)])
def test_average_over_final_parameters_with_phases_in_compute(sparsity, compression):
    """The consistency check of The Journey Matters: "2x lossless" at 80 %."""
    schedule = DensitySchedule(Prune(sparsity=sparsity))
    expected = 1 / ((1 - sparsity) * (0.25 + 0.5 * math.log(1 / (1 - sparsity)) / sparsity + 0.25 / (1 - sparsity)))
    assert schedule.mean / schedule.final == pytest.approx(expected, rel=1e-12)
    assert round(schedule.mean / schedule.final, len(str(compression)) - 2) == compression


@given(st.floats(0.01, 0.95))
def test_average_parameters_with_phases_in_steps(sparsity):
    mean = lambda shape: DensitySchedule(Prune(sparsity=sparsity, compute="dense", shape=shape)).mean  # noqa: E731
    assert mean("linear") == pytest.approx(1 - 0.5 * sparsity, rel=1e-12)
    assert mean("cubic") == pytest.approx(1 - 0.625 * sparsity, rel=1e-12)


@settings(max_examples=30)
@given(prunes, st.floats(0, 3))
def test_tokens_are_the_integral_of_compute_over_cost(prune, fixed):
    schedule = DensitySchedule(prune, fixed)
    middles = (np.arange(2000) + 0.5) / 2000
    cost = np.array([fixed + schedule.density_at(c) if prune.compute == "sparse" else 1.0 for c in middles])
    integral = np.cumsum(1 / cost) / np.sum(1 / cost)
    for index in (499, 999, 1499):
        compute = (index + 1) / 2000
        # A jump of the density may fall anywhere within one of the 2000 pieces.
        assert schedule.tokens_at(compute) == pytest.approx(integral[index], abs=0.02)
        assert schedule.compute_at(schedule.tokens_at(compute)) == pytest.approx(compute, abs=1e-9)
    density = np.array([schedule.density_at(c) for c in middles])
    assert schedule.mean == pytest.approx(np.sum(density / cost) / np.sum(1 / cost), abs=0.02)


@settings(max_examples=30)
@given(prunes, st.integers(20, 300), st.sampled_from([((0, 4),), ((0, 2), (700, 8))]))
def test_the_ledger_counts_what_is_active_in_every_step(prune, every, ramp):
    prune = prune.model_copy(update={"update_every": every})
    total = 1000
    whole = timeline(Steps(n=total), ramp, flops=6 * 10_000, parameters=10_000)
    (group,) = prune_groups(QUERIES(prune), MODEL, 16)
    sparse = replace(whole, phases=density_phases(prune, [group], whole))
    steps = [phase.step for phase in sparse.phases]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    at = {phase.step: phase for phase in sparse.phases}
    walked, active, phase = Ledger(), 0, None
    for step in range(total):
        phase = at.get(step, phase)
        tokens = 16 * sparse.sequences_at(step)
        assert phase.active_parameters == 10_000 - 4 * (group.units - num_kept(group.units, phase.density))
        assert phase.flops_per_token == 6 * phase.active_parameters
        active += tokens * phase.active_parameters
        if step in (10, 499, total - 1):
            walked = Ledger().after(sparse, step + 1)
            assert walked.active_parameter_tokens == active
            assert walked.sparse_flops == 6 * active
            assert walked.flops == whole.flops_before(step + 1)
    assert sparse.phases[-1].density == round_density(1 - prune.sparsity)


def test_the_ledgers_average_comes_to_the_closed_form():
    prune = QUERIES(Prune(sparsity=0.8, update_every=10))
    dense = timeline(Tokens(n=64 * 20_000), flops=6 * 4096, parameters=4096)  # nothing but queries
    sparse = replace(dense, phases=density_phases(prune, prune_groups(prune, MODEL, 16), dense))
    ledger = Ledger().after(sparse, sparse.total_steps)
    assert ledger.average_active_parameters / sparse.active_parameters_at(20_000) == pytest.approx(1.995, abs=2e-3)
    # The phases lie where so much of the compute without zeros is spent.
    spent = [sparse.sparse_flops_before(phase.step) / ledger.sparse_flops for phase in sparse.phases]
    assert spent[1] == pytest.approx(0.25, abs=1e-3)
    assert spent[-1] == pytest.approx(0.75, abs=1e-3)


def test_the_law_averages_as_the_ledger_does():
    """N̄ of the curve of active parameters over tokens; of a dense run N, and then the law is Chinchilla's."""
    prune = QUERIES(Prune(sparsity=0.8, update_every=100))
    dense = timeline(flops=6 * 4096, parameters=4096)
    sparse = replace(dense, phases=density_phases(prune, prune_groups(prune, MODEL, 16), dense))
    ends = [*(phase.step for phase in sparse.phases[1:]), 2000]
    tokens = [
        sparse.tokens_before(step) for phase, end in zip(sparse.phases, ends, strict=True) for step in (phase.step, end)
    ]
    active = [phase.active_parameters for phase in sparse.phases for _ in range(2)]
    ledger = Ledger().after(sparse, 2000)
    assert average_parameters(tokens, active) == pytest.approx(ledger.average_active_parameters, rel=1e-12)
    assert Ledger().after(dense, 2000).average_active_parameters == 4096
    values = dict(zip(CHINCHILLA.names, (406.4, 410.7, 1.69, 0.34, 0.28), strict=True))
    expected = 1.69 + 406.4 / 4096**0.34 + 410.7 / ledger.tokens**0.28
    for law, name in ((AVERAGE_PARAMETERS, "N_average"), (CHINCHILLA, "N")):
        found = law.predict(values, {name: np.float64(4096), "D": np.float64(ledger.tokens)})
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("prune", "expected"),
    [
        (Prune(sparsity=0.5, begin=0.5, end=0.5, compute="dense"), [(0, 1.0), (1000, 0.5)]),
        (Prune(sparsity=0.5, begin=0.0, end=0.0), [(0, 0.5)]),
        (Prune(sparsity=0.5, start_sparsity=0.5, begin=0.0, end=0.0), [(0, 0.5)]),
        (Prune(sparsity=0.0, start_sparsity=0.75, begin=0.5, end=0.5, compute="dense"), [(0, 0.25), (1000, 1.0)]),
        (
            Prune(sparsity=0.5, begin=0.5, end=1.0, compute="dense", update_every=500),
            [(0, 1), (1000, 1), (1500, 0.75), (2000, 0.5)],
        ),
        (Prune(sparsity=0.5, begin=0.5, end=0.6, compute="dense", update_every=500), [(0, 1), (1000, 1), (1200, 0.5)]),
    ],
    ids=["one shot", "at once", "static", "to dense", "to the end", "rarely"],
)  # fmt: skip
def test_when_masks_change(prune, expected):
    assert mask_updates(DensitySchedule(prune), timeline()) == expected


def test_cubic_is_that_of_zhu_and_gupta():
    schedule = DensitySchedule(Prune(sparsity=0.8, shape="cubic", begin=0.2, end=0.6))
    for progress in (0.0, 0.3, 1.0):
        expected = 1 - 0.8 * (1 - (1 - progress) ** 3)
        assert schedule.density_at(0.2 + 0.4 * progress) == pytest.approx(expected, abs=1e-12)


# Zeros, steps, first and last update, mean density of the kernels: the cards of sparsellm-1b-20p, -40p, -60p and -80p.
# That of 60 % does not say its mean; it is the formula's.
CARDS = [
    (0.2, 11200, 2500, 8100, 0.8919),
    (0.4, 13050, 2500, 8875, 0.7651),
    (0.6, 16375, 2500, 10100, 0.6098),
    (0.8, 25050, 2500, 12600, 0.3984),
]


@pytest.mark.parametrize(("sparsity", "steps", "begin", "end", "mean"), CARDS)
def test_the_published_schedule_is_that_of_the_model_cards(sparsity, steps, begin, end, mean):
    prune = Prune.as_published(sparsity, update_every=25)
    updates = mask_updates(DensitySchedule(prune), timeline(Steps(n=steps)))
    ends = [*(step for step, _ in updates[1:]), steps]
    assert updates[1][0] == pytest.approx(begin, abs=5)
    assert updates[-1][0] == pytest.approx(end, abs=50)
    average = sum((stop - step) * density for (step, density), stop in zip(updates, ends, strict=True)) / steps
    assert average == pytest.approx(mean, abs=1.5e-3)


def test_published_densities_are_geometric_in_the_number_of_the_update():
    prune = Prune.as_published(0.8, compute="dense", update_every=50)
    updates = mask_updates(DensitySchedule(prune), timeline())[1:]
    assert [step for step, _ in updates] == list(range(500, 1501, 50))
    np.testing.assert_allclose([density for _, density in updates], 0.2 ** (np.arange(1, 22) / 21), atol=1e-5)


def test_as_many_dense_steps_buy_the_steps_of_the_cards():
    """10,000 dense steps of kernels alone, where zeros are skipped."""
    for sparsity, steps, *_ in CARDS:
        mean = DensitySchedule(Prune.as_published(sparsity)).mean
        assert 10_000 / mean == pytest.approx(steps, rel=1e-3)


@given(st.floats(0.01, 0.95), st.floats(0, 0.95), st.floats(0, 1))
def test_geometric_in_tokens_is_linear_in_compute_where_zeros_save_everything(last, first, compute):
    fields = {"sparsity": last, "start_sparsity": first}
    geometric, linear = (DensitySchedule(Prune(**fields, shape=shape)) for shape in ("geometric", "linear"))
    assert geometric.density_at(compute) == pytest.approx(linear.density_at(compute), abs=1e-9)
    assert geometric.tokens_at(compute) == pytest.approx(linear.tokens_at(compute), abs=1e-9)


def test_on_the_right_edge_the_first_update_prunes_and_the_last_one_ends():
    prune = Prune(sparsity=0.75, begin=0.5, end=1.0, compute="dense", update_every=500, edge="right")
    thirds = [round_density(1 - 0.75 * i / 3) for i in (1, 2)]
    found = mask_updates(DensitySchedule(prune), timeline())
    assert found == [(0, 1.0), (1000, thirds[0]), (1500, thirds[1]), (2000, 0.25)]
    once = Prune(sparsity=0.5, begin=0.5, end=0.5, compute="dense", edge="right")
    assert mask_updates(DensitySchedule(once), timeline()) == [(0, 1.0), (1000, 0.5)]


@pytest.mark.parametrize("prune", [Prune(sparsity=0.8), Prune(sparsity=0.8, shape="cubic"), Prune.as_published(0.8)])
@pytest.mark.parametrize("every", [1, 10, 100, 333])
def test_budgets_of_equal_cost_are_exact_however_rarely_masks_change(prune, every):
    prune = prune.model_copy(update={"update_every": every})
    fields = {"model": MODEL, "data": Data(corpus="none", seq_len=16), "optimizer": AdamW(), "batch_size": 4}
    dense = Stage(**fields, budget="800 steps")
    aimed = stage_timeline(dense).flops_before(800)
    steps = steps_for_sparse_flops(dense.model_copy(update={"pruning": prune}), aimed)
    cost = stage_timeline(Stage(**fields, budget=Steps(n=steps), pruning=prune)).sparse_flops_before(steps)
    assert steps > 900
    assert abs(cost - aimed) <= 64 * flops_per_token(MODEL, 16)  # one step
    assert steps_for_sparse_flops(dense, aimed) == 800


def test_kernels_are_all_matrices_but_the_embedding():
    untied = MODEL.model_copy(update={"tie_embeddings": False})
    names = [
        {member.array.name for group in prune_groups(Prune.as_published(0.5), model, 16) for member in group.members}
        for model in (MODEL, untied)
    ]
    linear = {f"layers.attention.{n}" for n in ("q", "k", "v", "out")} | {
        f"layers.mlp.{n}" for n in ("gate", "up", "down")
    }
    assert names == [linear, linear | {"head"}]


def test_a_structures_zeros_save_what_computes_with_them():
    """Half of the units: half of their weights, and of the attention of heads."""
    attention = 12 * MODEL.head_dim * 16 * MODEL.n_heads * MODEL.n_layers
    heads, channels = 4 * 32 * 8 * (4 + 4 + 2 + 2), 4 * 3 * 32 * 64
    for structure, weights, flops in (
        (Heads(), heads, 6 * heads + attention),
        (Channels(), channels, 6 * channels),
        (WholeBlocks(), heads + channels, 6 * (heads + channels) + attention),
        (NM(), heads + channels, 6 * (heads + channels)),
    ):
        prune = Prune(sparsity=0.5, structure=structure)
        found = density_phases(prune, prune_groups(prune, MODEL, 16), timeline(flops=10**7, parameters=10**6))
        assert found[-1].active_parameters == 10**6 - weights // 2
        assert found[-1].flops_per_token == 10**7 - flops // 2


@pytest.mark.parametrize(
    ("prune", "match"),
    [
        (Prune(sparsity=0.9, structure=WholeBlocks()), "density of 0.1 leaves nothing of the 4 units of layers"),
        (Prune(sparsity=0.9, structure=Heads()), "leaves nothing of the 2 units of layers.attention"),
        (Prune(sparsity=0.5, structure=NM(), scope=("embedding",)), "embedding is not a kernel"),
    ],
)
def test_what_cannot_be_pruned_is_said(prune, match):
    with pytest.raises(UserError, match=match):
        density_phases(prune, prune_groups(prune, MODEL, 16), timeline(flops=1_000_000, parameters=100_000))


def test_what_does_not_go_together_is_said():
    with pytest.raises(ValueError, match=r"start_sparsity=0\.3: 2:4 is a sparsity of 0.5"):
        Prune(sparsity=0.5, start_sparsity=0.3, structure=NM())
    fields = {"data": Data(corpus="none", seq_len=8), "optimizer": AdamW(learning_rate=1), "batch_size": 4}
    fields |= {"model": MODEL, "budget": "9 steps", "pruning": Prune(sparsity=0.5)}
    with pytest.raises(ValueError, match="pruning counts the FLOPs of all rows"):
        Stage(**fields, reweighting=Reweighting(rule=TopLosses(fraction=0.5)))
    Stage(**fields, reweighting=Reweighting(rule=TopLosses(fraction=0.5), sample="token"))
