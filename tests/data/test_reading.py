"""Which step reads which text: against reading every batch, token by token."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.data.mixture import MixedOrder, resolve_phases
from pathways_lite.data.order import DataCursor, Order, locate_rows, permute, round_keys, rows_of_example, unpermute
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.reading import batch_source, documents_between, find_document, reads_of
from pathways_lite.data.store import Store
from pathways_lite.data.token_texts import token_texts
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.errors import UserError
from pathways_lite.ledger import LengthPhase, Timeline
from pathways_lite.recipe import (
    UL2R,
    Causal,
    Data,
    DataMixture,
    FillInTheMiddle,
    Fraction,
    GivenWeights,
    MixturePhase,
    PrefixLM,
    Ramp,
    SpecialTokens,
    Steps,
    Temperature,
)

LENGTH = 16
TIMELINE = Timeline(Ramp(steps=((0, 4), (3, 6))), LENGTH, flops_per_token=1, active_parameters=1, budget=Steps(n=100))
WARMUP = (LengthPhase(0, 4, 1), LengthPhase(3, 8, 1), LengthPhase(6, LENGTH, 1))
TIMELINES = (TIMELINE, replace(TIMELINE, lengths=WARMUP), replace(TIMELINE, lengths=WARMUP, shorter_batches=True))
CURSOR = DataCursor(first_sequence=13, skips=((2, 9), (5, 3)))
_IDS = {name: 200 + i for i, name in enumerate(n for n in SpecialTokens.model_fields if "sentinel" not in n)}
SPECIAL = SpecialTokens(**_IDS, first_sentinel=255, sentinels=40)
MIXTURE = DataMixture(
    phases=(
        MixturePhase(weights=Temperature(tau=3)),
        MixturePhase(start=Fraction(n=0.5), weights=GivenWeights(weights={"poems": 1, "tales": 1})),
    )
)


def stream(store: Store, objective=None, timeline: Timeline = TIMELINE, **fields: object) -> DataStream:
    data = Data.model_validate({"corpus": "x", "seq_len": LENGTH, **fields})
    return DataStream(store, data, timeline, objective or Causal(), CURSOR)


# ---- inverses ----


@given(st.integers(1, 5000), st.integers(0, 2**40), st.data())
def test_unpermute_is_the_inverse(n: int, seed: int, data) -> None:
    x = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    np.testing.assert_array_equal(unpermute(permute(x, n, round_keys(seed)), n, round_keys(seed)), x)
    np.testing.assert_array_equal(permute(unpermute(x, n, round_keys(seed)), n, round_keys(seed)), x)


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any),
    st.sampled_from([1.0, 0.3]),
    st.integers(0, 150),
    st.integers(0, 150),
)
def test_the_examples_of_a_window_are_those_located_there(windows, of_round, begin, count) -> None:
    order = Order(windows, 5, of_round)
    check_inverse(order, windows, begin, begin + count)


@settings(max_examples=20)
@given(st.integers(0, 300), st.integers(0, 200), st.sampled_from([(), (40, 3)]))
def test_also_under_a_mixture(begin, count, consumed) -> None:
    windows = [60, 7]
    phases = resolve_phases(MIXTURE, windows, ["poems", "tales"], TIMELINE, CURSOR.skips, 0)
    check_inverse(MixedOrder(windows, phases, 5, consumed), windows, begin, begin + count)


def check_inverse(order, windows, begin: int, end: int) -> None:
    located = order.locate(np.arange(begin, end)) if end > begin else None
    for domain, count in enumerate(windows):
        for window in range(count):
            here = [] if located is None else (located.domain == domain) & (located.window == window)
            assert order.examples_of(domain, window, begin, end) == [begin + int(i) for i in np.flatnonzero(here)]


@pytest.mark.parametrize("timeline", TIMELINES)
def test_the_rows_of_an_example_are_those_located_there(timeline: Timeline) -> None:
    where: dict[int, list[tuple[int, int, int]]] = {}
    for step in range(9):
        located = locate_rows(timeline, step, None, CURSOR.skips, CURSOR.first_sequence)
        for row, (example, offset) in enumerate(zip(*located, strict=True)):
            where.setdefault(int(example), []).append((step, row, int(offset)))
    for example in range(100):
        rows = rows_of_example(timeline, example, 9, CURSOR.skips, CURSOR.first_sequence)
        assert rows == where.get(example, []), example
    assert len(where) < 90  # two skips


# ---- rows of batches ----


@pytest.mark.parametrize("boundaries", ["document", "none"])
@pytest.mark.parametrize(
    "objective", [Causal(), PrefixLM(), UL2R(tokens=SPECIAL), FillInTheMiddle(tokens=SPECIAL, rate=0.7)]
)
def test_every_token_comes_from_where_its_offset_says(store: Store, objective, boundaries: str) -> None:
    reader = stream(store, objective, boundaries=boundaries)
    known = 0
    for step in (1, 2, 6):
        source = batch_source(reader, step)
        for a, b in zip(source.batch[:4], reader.batch_at(step)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        for row, domain in enumerate(source.rows.domain.tolist()):
            text = store.read(store.domains[domain], "train", 0, store.tokens(store.domains[domain]))
            offsets, tokens = source.offsets[row], source.batch.tokens[row]
            has_source = offsets >= 0
            np.testing.assert_array_equal(text[offsets[has_source]], tokens[has_source])
            inside = offsets[has_source] - source.rows.first_token[row]
            assert ((inside >= 0) & (inside < LENGTH + 1)).all()
            special = tokens[~has_source]
            unused = (source.batch.spans.stop - source.batch.spans.start)[row][~has_source] == 1
            assert ((special >= 200) | (special == store.frame.opens) | (unused & (special == 0))).all()
            known += has_source.sum()
    assert known > 100


def test_the_documents_of_a_window_are_its_text(store: Store) -> None:
    source = batch_source(stream(store), 4)
    for row, domain in enumerate(store.domains[d] for d in source.rows.domain.tolist()):
        first = int(source.rows.first_token[row])
        parts = list(documents_between(store, domain, first, first + LENGTH + 1))
        text = np.concatenate([list(store.documents(domain))[p.document][p.start : p.stop] for p in parts])
        np.testing.assert_array_equal(text, store.read(domain, "train", first, first + LENGTH + 1))
        assert all(p.id == store.document_ids(domain)[p.document] for p in parts)
        assert all(b.document == a.document + 1 for a, b in pairwise(parts))


# ---- rows that read a document ----


@pytest.mark.parametrize(
    ("mixture", "timeline"), [(None, TIMELINE), (MIXTURE, TIMELINE), (None, TIMELINES[1]), (MIXTURE, TIMELINES[2])]
)
def test_the_rows_that_read_a_document_are_those_found_by_reading_everything(store: Store, mixture, timeline) -> None:
    steps, reader = 12, stream(store, mixture=mixture, timeline=timeline)
    sources = [batch_source(reader, step) for step in range(steps)]
    some = 0
    for domain in store.domains:
        starts = store.document_starts(domain)
        for document in range(0, store.counts(domain).documents, 2):
            part = find_document(store, f"{domain}#{document}")
            assert (part.start, part.stop) == (0, starts[document + 1] - starts[document])
            expected = [
                (step, row)
                for step, source in enumerate(sources)
                for row in range(len(source.rows.domain))
                if store.domains[source.rows.domain[row]] == domain
                and source.rows.first_token[row] < starts[document + 1]
                and source.rows.first_token[row] + source.rows.length >= starts[document]
            ]
            reads = reads_of(reader, steps, part)
            assert [(read.step, read.row) for read in reads] == expected
            some += len(reads)
            for read in reads:
                first, last = starts[document] + read.start, starts[document] + read.stop - 1
                window = sources[read.step].rows.first_token[read.row]
                assert window <= first <= last <= window + sources[read.step].rows.length
                assert sources[read.step].rows.epoch[read.row] == read.epoch
    assert some > 20


def test_documents_are_found_by_their_ids(store: Store) -> None:
    for domain in store.domains:
        ids = store.document_ids(domain)
        part = find_document(store, ids[3])
        assert (part.domain, part.document, part.id) == (domain, 3, ids[3])
    with pytest.raises(UserError, match="is a held-out document"):
        find_document(store, store.document_ids("tales", "held_out")[0])
    for name in ("nothing", "", "d", "tales#x", "tales#99999"):
        with pytest.raises(UserError, match=r"no document|numbered from 0"):
            find_document(store, name)


# ---- the text of tokens ----


@given(st.text(max_size=60), st.lists(st.integers(0, 256), max_size=20))
def test_the_texts_of_tokens_add_up(text: str, ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    for tokens in (tokenizer.encode(text), ids):
        texts = token_texts(tokenizer, tokens)
        assert len(texts) == len(tokens)
        assert "".join(texts) == tokenizer.decode(tokens)
    assert all(len(piece) <= 1 for piece in token_texts(tokenizer, tokenizer.encode("aß🜁é")))
