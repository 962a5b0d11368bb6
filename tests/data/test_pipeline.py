"""Batches: a pure function of the step, however they are read."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from pathways_lite.batch import Batch
from pathways_lite.data.order import DataCursor
from pathways_lite.data.pipeline import DataStream, windows_per_domain
from pathways_lite.data.store import Store
from pathways_lite.errors import UserError
from pathways_lite.ledger import LengthPhase, Timeline
from pathways_lite.parallel.sharding import BatchShard
from pathways_lite.recipe import UL2R, Data, Ramp, SpecialTokens, Steps


def timeline(*ramp: tuple[int, int]) -> Timeline:
    return Timeline(Ramp(steps=ramp), seq_len=16, flops_per_token=1, active_parameters=1, budget=Steps(n=100))


def data(**fields: object) -> Data:
    return Data.model_validate({"corpus": "x", "seq_len": 16, **fields})


def assert_equal(a: Batch, b: Batch) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


WAY = timeline((0, 4), (3, 6))
CUT = DataCursor(first_sequence=13, skips=((2, 9),))


def test_reading_ahead_gives_the_pure_batches(store: Store) -> None:
    got = list(DataStream(store, data(), WAY, cursor=CUT).read(1, 6))
    assert [len(b.tokens) for b in got] == [4, 4, 6, 6, 6]
    for step, b in enumerate(got, 1):
        assert_equal(b, DataStream(store, data(), WAY, cursor=CUT).batch_at(step))


@pytest.mark.slow
def test_worker_processes_give_the_pure_batches(store: Store) -> None:
    got = list(DataStream(store, data(workers=2), WAY, cursor=CUT).read(1, 6))
    assert len(got) == 5
    for step, b in enumerate(got, 1):
        assert_equal(b, DataStream(store, data(), WAY, cursor=CUT).batch_at(step))


LENGTHS = (LengthPhase(0, 4, 1), LengthPhase(2, 8, 1), LengthPhase(4, 16, 1))


@pytest.mark.parametrize("boundaries", ["document", "none"])
def test_a_warm_up_by_tokens_reads_in_each_step_what_it_reads_without_one(store: Store, boundaries: str) -> None:
    plain = DataStream(store, data(boundaries=boundaries), WAY, cursor=CUT)
    warm = replace(plain, timeline=replace(WAY, lengths=LENGTHS))
    for step, length in enumerate((4, 4, 8, 8, 16, 16)):
        short, full = warm.batch_at(step), plain.batch_at(step)
        assert short.tokens.shape == (len(full.tokens) * 16 // length, length)
        for name in ("tokens", "targets"):
            np.testing.assert_array_equal(getattr(short, name).ravel(), getattr(full, name).ravel())
        np.testing.assert_array_equal(short.domain, full.domain.repeat(16 // length))
        assert len(np.unique(short.sample_id, axis=0)) == len(short.tokens)
        assert short.positions[:, 0].tolist() == [0] * len(short.tokens)
    for a, b in zip(warm.read(0, 6), map(warm.batch_at, range(6)), strict=True):
        assert_equal(a, b)


def test_a_warm_up_by_rows_reads_the_same_order_more_slowly(store: Store) -> None:
    """No token is skipped or read twice, also where steps begin inside an example, and the guard skips examples."""
    way = replace(timeline((0, 2), (2, 6)), lengths=(LengthPhase(0, 4, 1), LengthPhase(4, 16, 1)), shorter_batches=True)
    warm = DataStream(store, data(), way, cursor=DataCursor(first_sequence=13, skips=((3, 9),)))
    plain = DataStream(store, data(), timeline((0, 1)), cursor=DataCursor(first_sequence=13))
    order = np.concatenate([plain.batch_at(example).targets[0] for example in range(30)])
    read = np.concatenate([warm.batch_at(step).targets.ravel() for step in range(6)])
    assert way.tokens_before(3) == 40  # in the middle of the third example
    np.testing.assert_array_equal(read, np.concatenate([order[:40], order[40 + 9 * 16 :]])[: len(read)])
    assert warm.cursor.end_example(way, 6) - 13 == 9 + len(read) // 16


def test_a_closed_pipeline_reads_no_more(store: Store) -> None:
    it = DataStream(store, data(), WAY).read(0, 1000)
    next(it)
    it.close()
    assert list(it) == []


def test_an_epoch_is_every_token_once(store: Store) -> None:
    """Together the windows of an epoch predict every token of the streams but the first and a last stretch."""
    windows = windows_per_domain(store, 16)
    way = timeline((0, 1))
    targets: dict[int, list[int]] = {0: [], 1: []}
    for step in range(sum(windows)):
        b = DataStream(store, data(shuffle_seed=5), way).batch_at(step)
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
    whole = DataStream(store, data(), timeline((0, 6))).batch_at(4)
    parts = [DataStream(store, data(), timeline((0, 6)), shard=BatchShard((i,), 3)).batch_at(4) for i in range(3)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *parts))
    singles = [DataStream(store, data(), timeline((0, 1))).batch_at(24 + i) for i in range(6)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *singles))
    with pytest.raises(UserError, match="spread evenly over 4 devices"):
        DataStream(store, data(), timeline((0, 6)), shard=BatchShard((0,), 4)).batch_at(4)


def test_denoising_is_the_same_for_any_hosts_and_readers(store: Store) -> None:
    """What becomes of a window depends on its number alone."""
    ids = {name: 200 + i for i, name in enumerate(n for n in SpecialTokens.model_fields if "sentinel" not in n)}
    objective = UL2R(tokens=SpecialTokens(**ids, first_sentinel=255, sentinels=40))
    whole = DataStream(store, data(), WAY, objective, CUT).batch_at(4)
    parts = [DataStream(store, data(), WAY, objective, CUT, BatchShard((i,), 3)).batch_at(4) for i in range(3)]
    assert_equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *parts))
    (read,) = DataStream(store, data(), WAY, objective, CUT).read(4, 5)
    assert_equal(whole, read)
    assert (whole.tokens >= 200).sum() >= 6


def test_the_order_is_keyed(store: Store) -> None:
    a, b = (DataStream(store, data(shuffle_seed=s), timeline((0, 32))).batch_at(0) for s in (0, 1))
    assert (a.sample_id == b.sample_id).all()
    assert (a.tokens != b.tokens).any(axis=1).sum() > 24


def test_a_corpus_too_small_for_one_sequence_is_told_at_once(store: Store) -> None:
    with pytest.raises(UserError, match="100001 training tokens"):
        DataStream(store, data(seq_len=100_000), WAY).read(0, 1)
