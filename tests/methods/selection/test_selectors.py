"""Which documents are chosen: known answers, shares, floors, and the same choice every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.methods.selection.near_duplicates import near_duplicates, shingles
from pathways_lite.methods.selection.selectors import Which, cluster, prototype_scores, select_fraction

SCORES = st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=40)
PARTS: tuple[Which, ...] = ("bottom", "middle", "top")


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, tokens, group = (np.array(column) for column in zip(*rows, strict=True))
    return score.astype(float), tokens, group


# ---- keeping ----


def test_of_equal_documents_the_share_is_kept_from_the_part_that_is_named() -> None:
    score, tokens = np.array([3.0, 0, 7, 1, 9, 4, 2, 8, 6, 5]), np.full(10, 7)
    found = {which: sorted(score[select_fraction(score, tokens, 0.4, which)]) for which in PARTS}
    assert found == {"bottom": [0, 1, 2, 3], "middle": [3, 4, 5, 6], "top": [6, 7, 8, 9]}


@settings(max_examples=25)
@given(rows=SCORES, share=st.floats(0.05, 1), which=st.sampled_from(PARTS))
def test_the_share_is_of_tokens_and_equal_scores_come_in_order(
    rows: list[tuple[int, int, int]], share: float, which: Which
) -> None:
    score, tokens, _ = columns(rows)
    kept = select_fraction(score, tokens, share, which)
    assert abs(tokens[kept].sum() - share * tokens.sum()) <= tokens.max() / 2 + 1e-9
    if which != "middle" and kept.any() and not kept.all():
        sign = 1 if which == "bottom" else -1
        assert (sign * score[kept]).max() <= (sign * score[~kept]).min()
        last = sign * score == (sign * score[kept]).max()  # where the cut goes through
        assert kept[last].tolist() == sorted(kept[last].tolist(), reverse=True)


@settings(max_examples=25)
@given(rows=SCORES, which=st.sampled_from(PARTS), floor=st.floats(0, 1))
def test_all_are_kept_where_all_are_asked_for(rows: list[tuple[int, int, int]], which: Which, floor: float) -> None:
    score, tokens, group = columns(rows)
    assert select_fraction(score, tokens, 1.0, which, group, floor).all()


@settings(max_examples=25)
@given(rows=SCORES, share=st.floats(0.1, 1), which=st.sampled_from(PARTS), floor=st.sampled_from([0.5, 0.8, 1.0]))
def test_every_group_keeps_its_floor(
    rows: list[tuple[int, int, int]], share: float, which: Which, floor: float
) -> None:
    score, tokens, group = columns(rows)
    kept = select_fraction(score, tokens, share, which, group, floor)
    for g in np.unique(group):
        members = group == g
        least = floor * share * tokens[members].sum()
        assert tokens[kept & members].sum() >= least - tokens[members].max() / 2 - 1e-9
    # What the floors leave is given to whoever comes first.
    over = len(np.unique(group)) * tokens.max() / 2
    assert abs(tokens[kept].sum() - share * tokens.sum()) <= over + tokens.max() / 2 + 1e-9


def test_a_floor_keeps_a_group_that_the_scores_alone_would_drop() -> None:
    score, group, tokens = np.arange(100.0), np.repeat([0, 1], 50), np.ones(100, int)
    assert select_fraction(score, tokens, 0.5, "top", group).nonzero()[0].tolist() == list(range(50, 100))
    half = select_fraction(score, tokens, 0.5, "top", group, floor=0.5)
    assert half.nonzero()[0].tolist() == [*range(38, 50), *range(62, 100)]  # 12.5 of group 0's 50, and the rest
    alone = select_fraction(score, tokens, 0.5, "middle", group, floor=1)
    assert [alone[group == g].sum() for g in (0, 1)] == [25, 25]
    assert alone[12:37].sum() == 25  # the middle of group 0, which is not that of all


# ---- prototypes and clusters ----


def three_heaps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """60 points about three directions that are far apart, and which."""
    random, heap = np.random.default_rng(seed), np.arange(60) % 3
    return np.eye(4)[heap] * 5 + random.normal(0, 0.2, (60, 4)), heap


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.selection
def test_k_means_finds_heaps_and_repeats_itself(distance: str) -> None:
    points, heap = three_heaps()
    found = cluster(points, 3, distance, seed=1)  # type: ignore[arg-type]
    assert len({(a, b) for a, b in zip(found.cluster, heap, strict=True)}) == 3
    again = cluster(points, 3, distance, seed=1)  # type: ignore[arg-type]
    assert np.array_equal(found.cluster, again.cluster)
    assert found.distance.tobytes() == again.distance.tobytes()


@pytest.mark.selection
def test_distances_are_those_from_the_mean_of_the_cluster() -> None:
    points = np.array([[0.0, 0], [2, 0], [100, 0], [100, 6]])
    assert cluster(points, 2, "euclidean", 0).distance == pytest.approx([1, 1, 3, 3])
    rays = np.array([[1.0, 0], [7, 0], [0, 2], [-0.0, 5]])  # lengths do not count
    assert cluster(rays, 2, "cosine", 0).distance == pytest.approx([0, 0, 0, 0], abs=1e-12)
    outlier = cluster(np.array([[1.0, 0.1], [1, -0.1], [1, 0], [0, 1]]), 1, "cosine", 0).distance
    assert outlier.argmax() == 3
    assert (outlier >= 0).all()


@pytest.mark.selection
def test_more_clusters_than_documents_are_as_many_as_documents() -> None:
    found = cluster(np.eye(3), 10, "euclidean", 0)
    assert sorted(found.cluster) == [0, 1, 2]
    assert found.distance == pytest.approx([0, 0, 0], abs=1e-12)


# ---- RDS+ ----


def test_a_target_in_one_heap_takes_that_heap_first() -> None:
    points, heap = three_heaps()
    found = prototype_scores(points[6:], points[:6][heap[:6] == 1])
    kept = select_fraction(found.turn.astype(float), np.ones(54, int), 1 / 3, "bottom")
    assert kept.tolist() == (heap[6:] == 1).tolist()
    assert found.similarity[heap[6:] == 1].min() > found.similarity[heap[6:] != 1].max()


def test_targets_take_turns() -> None:
    """Both targets first take what they like best; what one has taken, the other's turn goes past."""
    documents = np.array([[1.0, 0], [0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.0, 1]])
    found = prototype_scores(documents, np.array([[1.0, 0.01], [0.8, 0.2]]))
    # Likings: 0 1 2 3 4 and 1 2 0 3 4. Turns 0: 0; 1: 1; 2: 1, taken; 3: 2; 6: 3; 8: 4.
    assert found.turn.tolist() == [0, 1, 3, 6, 8]
    assert found.similarity.argmax() in (0, 1)
    assert (found.similarity <= 1 + 1e-12).all()


def test_tasks_take_turns_however_many_targets_they_have() -> None:
    """Thirty targets of one task choose no more than one target of another; similar to any of them is similar."""
    rng = np.random.default_rng(2)
    near = lambda axis, n: np.eye(4)[axis] + 0.05 * rng.standard_normal((n, 4))  # noqa: E731
    documents = np.concatenate([near(0, 40), near(1, 40), near(2, 40)])
    targets = np.concatenate([near(0, 15), near(1, 15), near(2, 1)])
    tasks = np.array([0] * 30 + [1])
    found = prototype_scores(documents, targets, tasks)
    kept = select_fraction(found.turn.astype(float), np.ones(120, int), 1 / 6, "bottom")
    assert kept[:80].sum() == kept[80:].sum() == 10
    cosines = (documents / np.linalg.norm(documents, axis=1, keepdims=True)) @ (
        targets / np.linalg.norm(targets, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(found.similarity, cosines.max(axis=1), rtol=1e-12)
    first = np.argsort(-cosines[:, :30].max(axis=1))[:10]
    assert set(np.flatnonzero(kept)) == {*first, *np.argsort(-cosines[:, 30])[:10]}
    pooled = prototype_scores(documents, targets)
    alone = prototype_scores(documents, targets, np.zeros(31, int))
    np.testing.assert_array_equal(pooled.turn, alone.turn)
    kept = select_fraction(pooled.turn.astype(float), np.ones(120, int), 1 / 6, "bottom")
    assert kept[80:].sum() < 5


def test_many_documents_are_compared_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    documents, targets = rng.standard_normal((37, 5)).astype(np.float32), rng.standard_normal((3, 5))
    whole = prototype_scores(documents, targets)
    monkeypatch.setattr("pathways_lite.methods.selection.selectors._BLOCK", 10)
    blocks = prototype_scores(documents, targets)
    np.testing.assert_allclose(blocks.similarity, whole.similarity, rtol=1e-12)
    np.testing.assert_array_equal(blocks.turn, whole.turn)


# ---- near duplicates ----

WORDS = "river stone light under wind rain tree night over tale moon salt glass iron".split()  # noqa: SIM905


def story(seed: int, words: int = 120) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.mark.selection
def test_planted_copies_go_and_distinct_documents_stay() -> None:
    texts = [story(i) for i in range(20)]
    changed = texts[3].replace("river", "lake", 1)
    levelled = "  " + texts[5].upper().replace(" ", "\n ")
    found = near_duplicates([*texts, changed, texts[0], levelled])
    assert found[:20].tolist() == [0.0] * 20
    assert 0.8 <= found[20] < 1
    assert found[21:].tolist() == [1.0, 1.0]


@pytest.mark.selection
def test_the_first_of_a_group_stays_and_texts_before_come_first() -> None:
    same = [story(1)] * 3
    assert near_duplicates(same).tolist() == [0, 1, 1]
    assert near_duplicates(same, before=[story(1)]).tolist() == [1, 1, 1]
    assert near_duplicates(same, before=[story(2)]).tolist() == [0, 1, 1]


@pytest.mark.selection
def test_a_text_inside_a_longer_one_is_not_found() -> None:
    """Documents are compared as wholes: this is no decontamination."""
    question = story(1, 30)
    contaminated = f"{story(2, 400)} {question} {story(3, 400)}"
    assert near_duplicates([contaminated], before=[question], threshold=0.5).tolist() == [0]


@pytest.mark.selection
def test_estimates_are_near_the_true_similarity() -> None:
    a, b = story(7, 200), " ".join(story(7, 200).split()[:170])
    first, second = (set(shingles(text, 9).tolist()) for text in (a, b))
    true = len(first & second) / len(first | second)
    assert near_duplicates([a, b], threshold=0.3)[1] == pytest.approx(true, abs=0.15)


@settings(max_examples=25)
@given(text=st.text(max_size=30), length=st.integers(1, 12))
def test_shingles_are_as_many_as_there_are_different_stretches(text: str, length: int) -> None:
    levelled = " ".join(text.casefold().split())
    size = min(length, len(levelled))
    assert len(shingles(text, length)) == len({levelled[i : i + size] for i in range(len(levelled) - size + 1)})


@pytest.mark.selection
def test_only_equal_texts_are_duplicates_at_a_threshold_of_one() -> None:
    texts = [story(1), story(1).replace("river", "lake", 1), story(1)]
    assert near_duplicates(texts, threshold=1.0).tolist() == [0, 0, 1]
