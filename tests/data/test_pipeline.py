"""Batches: a pure function of the step, however they are read."""

import jax
import numpy as np
import pytest

from pathways_lite.batch import Batch
from pathways_lite.data.pipeline import batch, batches, windows_per_domain
from pathways_lite.data.store import Store
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.parallel.sharding import BatchShard
from pathways_lite.recipe import UL2R, Causal, Data, Ramp, SpecialTokens, Steps


def timeline(*ramp: tuple[int, int]) -> Timeline:
    return Timeline(Ramp(steps=ramp), seq_len=16, flops_per_token=1, active_parameters=1, budget=Steps(n=100))


def data(**fields: object) -> Data:
    return Data.model_validate({"corpus": "x", "seq_len": 16, **fields})


def assert_equal(a: Batch, b: Batch) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


WAY = timeline((0, 4), (3, 6))
CUT = {"skips": ((2, 9),), "first_sequence": 13}


def test_reading_ahead_gives_the_pure_batches(store: Store) -> None:
    got = list(batches(store, data(), WAY, Causal(), first_step=1, stop_step=6, **CUT))
    assert [len(b.tokens) for b in got] == [4, 4, 6, 6, 6]
    for step, b in enumerate(got, 1):
        assert_equal(b, batch(store, data(), WAY, step, **CUT))


@pytest.mark.slow
def test_worker_processes_give_the_pure_batches(store: Store) -> None:
    got = list(batches(store, data(workers=2), WAY, Causal(), first_step=1, stop_step=6, **CUT))
    assert len(got) == 5
    for step, b in enumerate(got, 1):
        assert_equal(b, batch(store, data(), WAY, step, **CUT))


def test_a_closed_pipeline_reads_no_more(store: Store) -> None:
    it = batches(store, data(), WAY, Causal(), first_step=0, stop_step=1000)
    next(it)
    it.close()
    assert list(it) == []


def test_an_epoch_is_every_token_once(store: Store) -> None:
    """Together the windows of an epoch predict every token of the streams but the first and a last stretch."""
    windows = windows_per_domain(store, 16)
    way = timeline((0, 1))
    targets: dict[int, list[int]] = {0: [], 1: []}
    for step in range(sum(windows)):
        b = batch(store, data(shuffle_seed=5), way, step)
        targets[int(b.domain[0])] += b.targets[0].tolist()
    for d, domain in enumerate(store.domains):
        stream = store.read(domain, "train", 1, 1 + 16 * windows[d]).tolist()
        assert 0 <= store.tokens(domain) - len(stream) - 1 < 16
        assert sorted(targets[d]) == sorted(stream)


def test_held_out_text_is_never_in_training(store: Store) -> None:
    """Every document begins with a line of its own; the training streams have those of the others only."""
    streams = b"".join(store.read(d, "train", 0, store.tokens(d)).astype(np.uint8).tobytes() for d in store.domains)
    held_out = [d for domain in store.domains for d in store.held_out(domain, 10**9)]
    assert streams.count(b"Chapter ") == 90 - len(held_out)
    for document in held_out:
        title = bytes(document.tokens[1 : document.tokens.tolist().index(ord("\n")) + 1].tolist())
        assert title.startswith(b"Chapter ")
        assert title not in streams


def test_rows_do_not_depend_on_the_batch_size_or_the_hosts(store: Store) -> None:
    whole = batch(store, data(), timeline((0, 6)), 4)
    parts = [batch(store, data(), timeline((0, 6)), 4, share=BatchShard((i,), 3)) for i in range(3)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *parts))
    singles = [batch(store, data(), timeline((0, 1)), 24 + i) for i in range(6)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *singles))
    with pytest.raises(UserError, match="spread evenly over 4 devices"):
        batch(store, data(), timeline((0, 6)), 4, share=BatchShard((0,), 4))


def test_denoising_is_the_same_for_any_hosts_and_readers(store: Store) -> None:
    """What becomes of a window depends on its number alone."""
    ids = {name: 200 + i for i, name in enumerate(n for n in SpecialTokens.model_fields if "sentinel" not in n)}
    objective = UL2R(tokens=SpecialTokens(**ids, first_sentinel=255, sentinels=40))
    whole = batch(store, data(), WAY, 4, objective=objective, **CUT)
    parts = [batch(store, data(), WAY, 4, objective=objective, share=BatchShard((i,), 3), **CUT) for i in range(3)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *parts))
    (read,) = batches(store, data(), WAY, objective, first_step=4, stop_step=5, **CUT)
    assert_equal(whole, read)
    assert (whole.tokens >= 200).sum() >= 6


def test_the_order_is_keyed(store: Store) -> None:
    a, b = (batch(store, data(shuffle_seed=s), timeline((0, 32)), 0) for s in (0, 1))
    assert (a.sample_id == b.sample_id).all()
    assert (a.tokens != b.tokens).any(axis=1).sum() > 24


def test_a_corpus_too_small_for_one_sequence_is_told_at_once(store: Store) -> None:
    with pytest.raises(UserError, match="100001 training tokens"):
        batches(store, data(seq_len=100_000), WAY, Causal(), first_step=0, stop_step=1)
