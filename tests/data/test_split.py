"""The held-out split: by hash alone if possible, and at least one document of every domain if there are enough."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.shards import group_hash, select_held_out

# Few groups, so that domains share them, as code and docstrings of one file do.
documents = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30)


@given(documents=documents, share=st.floats(0.0, 0.99))
@settings(max_examples=300)
def test_split(documents: list[tuple[int, int]], share: float) -> None:
    domain = np.array([d for d, _ in documents])
    group = np.array([group_hash(str(g)) for _, g in documents], np.uint64)
    held = select_held_out(domain, group, share)
    if not share:
        assert not held.any()
        return
    # A group is on one side.
    assert not set(group[held].tolist()) & set(group[~held].tolist())
    # Every domain has something to train on.
    for d in set(domain.tolist()):
        assert (~held[domain == d]).any()
    # With a domain of its own, some is held out too.
    alone = select_held_out(np.zeros_like(domain), group, share)
    assert alone.any() == (len(set(group.tolist())) > 1)


def test_large_corpora_are_split_by_the_hash_alone() -> None:
    names = [f"document {i}" for i in range(20_000)]
    group = np.array([group_hash(name) for name in names], np.uint64)
    held = select_held_out(np.zeros(len(names)), group, 0.05)
    assert abs(held.mean() - 0.05) < 0.006
    some = np.arange(0, len(names), 3)
    assert (select_held_out(np.zeros(len(some)), group[some], 0.05) == held[some]).all()
    # More is held out of the same documents, not others.
    assert not (held & ~select_held_out(np.zeros(len(names)), group, 0.06)).any()


def test_group_hash_golden_value() -> None:
    assert group_hash("json/decoder.py") == 1384971743171980357


@given(documents=documents, shares=st.lists(st.sampled_from([0.0, 0.2, 0.7]), min_size=4, max_size=4))
@settings(max_examples=200)
def test_shares_by_domain(documents: list[tuple[int, int]], shares: list[float]) -> None:
    domain = np.array([d for d, _ in documents])
    group = np.array([group_hash(str(g)) for _, g in documents], np.uint64)
    held = select_held_out(domain, group, np.array(shares))
    assert not set(group[held].tolist()) & set(group[~held].tolist()), "a group is on one side"
    with_share = {g for g, d in zip(group.tolist(), domain.tolist(), strict=True) if shares[d]}
    assert set(group[held].tolist()) <= with_share, "a group is held out for a domain that has a share"
    for d in set(domain.tolist()):
        assert (~held[domain == d]).any()
    same = select_held_out(domain, group, np.full(4, 0.2))
    assert (same == select_held_out(domain, group, 0.2)).all()
