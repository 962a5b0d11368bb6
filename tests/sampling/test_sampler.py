"""Samples depend on the model, the prompt, the seed and their number, and on nothing else."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.models import Params
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import Model
from pathways_lite.sampling import rows as on_device
from pathways_lite.sampling.automaton import grammar, stop_strings, trie
from pathways_lite.sampling.prefixes import Need, places_needed, read_prompts
from pathways_lite.sampling.rules import GREEDY, Rules, Sampling, drawn_log_probs
from pathways_lite.sampling.sampler import Request, Sample, Sampler

MODEL = Model(
    d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=40, vocab_size=50, dtype="float32",
    block="serial", window=(7, None),
)  # fmt: skip
END = 49


@pytest.fixture(scope="module")
def params() -> Params:
    return models.init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def sampler(params: Params) -> Sampler:
    return Sampler.of_params(MODEL, params, [END], rows=4, share=True)


def prompt(length: int, seed: int = 0, prefix_length: int = 0) -> Prompt:
    return Prompt(np.random.default_rng(seed).integers(0, 48, length).tolist(), prefix_length, END)


REQUESTS = [
    Request(prompt(3), Sampling(), max_tokens=40, samples=3),
    Request(prompt(70, 1), Sampling(0.8, top_k=20), max_tokens=9, samples=2),
    Request(prompt(5, 2), GREEDY, max_tokens=20),
    Request(prompt(6, 3, prefix_length=6), Sampling(top_p=0.9), max_tokens=33, samples=2),
    Request(prompt(1, 4), Sampling(1.3, min_p=0.1), max_tokens=1),
]


def by_name(samples: list[Sample]) -> dict[tuple[int, int], Sample]:
    return {(sample.request, sample.number): sample for sample in samples}


@pytest.fixture(scope="module")
def samples(sampler: Sampler) -> dict[tuple[int, int], Sample]:
    return by_name(list(sampler.sample(REQUESTS)))


def whole_log_probs(params: Params, tokens: list[int], prefix_length: int, config: Model = MODEL) -> np.ndarray:
    positions = np.arange(len(tokens), dtype=np.int32)[None]
    spans = Spans(np.zeros_like(positions), np.maximum(positions + 1, prefix_length))
    hidden = models.apply(config, params, np.array([tokens], np.int32), positions, spans)
    return np.asarray(jax.nn.log_softmax(models.logits(config, params, hidden)))[0]


def test_log_probs_and_greedy_tokens_are_those_of_whole_passes(params, samples):
    assert set(samples) == {(i, j) for i, request in enumerate(REQUESTS) for j in range(request.samples)}
    for (index, _), sample in samples.items():
        ask = REQUESTS[index].prompt
        expected = whole_log_probs(params, [*ask.tokens, *sample.tokens], ask.prefix_length)
        expected = expected[len(ask.tokens) - 1 :][: len(sample.tokens)]
        picked = np.take_along_axis(expected, sample.tokens[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(sample.logp_model, picked, atol=1e-4)
        assert sample.finish == ("end" if sample.tokens[-1] == END else "length")
        drawn = drawn_log_probs(jnp.array(expected), Rules.of([REQUESTS[index].sampling] * len(expected)))
        np.testing.assert_allclose(
            sample.logp_drawn, np.take_along_axis(np.asarray(drawn), sample.tokens[:, None], axis=1)[:, 0], atol=1e-4
        )
        if REQUESTS[index].sampling == GREEDY:
            np.testing.assert_array_equal(sample.tokens, expected.argmax(axis=1))


def same(one: dict, other: dict) -> None:
    assert set(one) == set(other)
    for name, sample in one.items():
        np.testing.assert_array_equal(sample.tokens, other[name].tokens)
        assert sample.finish == other[name].finish


def test_a_sample_does_not_depend_on_what_shares_its_batch(params, sampler, samples):
    order = [4, 2, 0, 3, 1]
    shuffled = by_name(list(sampler.sample([REQUESTS[i] for i in order])))
    same(samples, {(order[index], number): sample for (index, number), sample in shuffled.items()})
    alone = Sampler(MODEL, sampler.weights, (END,), rows=1, chunk=8, share=False)
    same(samples, by_name(list(alone.sample(REQUESTS))))


def test_prompts_that_are_shared_give_the_samples_of_copied_ones(sampler):
    """Three prompts for two places: rows wait until all of a prompt's have ended."""
    lengths = (3, 70, 9)
    requests = [Request(prompt(n, seed=n), Sampling(), max_tokens=20, samples=6) for n in lengths]
    assert places_needed([Need(len(r.prompt.tokens), 20, 6) for r in requests], sampler.rows) == 2
    shared, copied = (
        by_name(list(dataclasses.replace(sampler, share=share).sample(requests))) for share in (True, False)
    )
    same(shared, copied)
    for name, sample in shared.items():
        np.testing.assert_allclose(sample.logp_model, copied[name].logp_model, atol=1e-5)


@pytest.mark.parametrize("changes", [
    {"window": None, "n_kv_heads": 1, "block": "parallel", "rope_fraction": 0.5},
    {"n_kv_heads": 4, "attention_soft_cap": 3.0, "local_rope_base": 100.0, "qk_norm": True},
])  # fmt: skip
def test_split_attention_is_that_of_a_whole_pass(changes: dict[str, Any]):
    """For rows of several prompts, one of which sees itself both ways, in every kind of attention."""
    config = Model.model_validate(dict(MODEL) | changes)
    params = models.init(config, jax.random.key(1))
    requests = [Request(p, max_tokens=9, samples=2) for p in (prompt(4), prompt(20, 1, prefix_length=20), prompt(1, 2))]
    given = np.random.default_rng(3).integers(0, 48, (6, 9))
    found = []
    for share in (True, False):
        sampler = Sampler.of_params(config, params, [END], share=share)
        rows, _ = sampler.open(requests)
        assert (rows.shared is not None) == share
        found.append(np.asarray(on_device.score(config, sampler.weights, rows, given)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    for row, logp in enumerate(found[0]):
        ask = requests[row // 2].prompt
        expected = whole_log_probs(params, [*ask.tokens, *given[row]], ask.prefix_length, config)
        expected = expected[len(ask.tokens) - 1 : -1][np.arange(9), given[row]]
        np.testing.assert_allclose(logp, expected, atol=1e-4)


def test_more_samples_begin_with_the_same(sampler, samples):
    more = dataclasses.replace(REQUESTS[0], samples=6)
    extended = by_name(list(sampler.sample([more])))
    same({name: samples[name] for name in [(0, 0), (0, 1), (0, 2)]}, {n: s for n, s in extended.items() if n[1] < 3})
    rest = by_name(list(sampler.sample([dataclasses.replace(more, first_sample=3, samples=3)])))
    same({name: sample for name, sample in extended.items() if name[1] >= 3}, rest)
    assert len({tuple(sample.tokens.tolist()) for sample in extended.values()}) == 6


def test_seeds_and_problems_change_samples(sampler, samples):
    first = samples[0, 0].tokens.tolist()
    other_seed = next(dataclasses.replace(sampler, key=jax.random.key(1)).sample([REQUESTS[0]]))
    other_problem = next(sampler.sample([dataclasses.replace(REQUESTS[0], problem=7)]))
    assert first != other_seed.tokens.tolist() != other_problem.tokens.tolist() != first


def test_growing_texts_are_shown(sampler):
    seen: list[list[int]] = []
    request = dataclasses.replace(REQUESTS[0], samples=1, max_tokens=48)
    final = next(
        dataclasses.replace(sampler, chunk=8, ends=()).sample(
            [request], lambda s: seen.extend(list(x.tokens) for x in s)
        )
    )
    assert [len(tokens) for tokens in seen] == [8, 16, 24, 32, 40]
    assert all(tokens == final.tokens[: len(tokens)].tolist() for tokens in seen)


def test_stop_strings_and_tries_end_and_restrict(sampler):
    request = dataclasses.replace(REQUESTS[0], samples=1)
    free = next(sampler.sample([request])).tokens.tolist()
    # Three bytes, of which the first two belong to no other token.
    written = [b"%c%c%d" % (97 + i % 26, 65 + i // 26, i % 10) for i in range(50)]
    new = next(i for i in range(3, len(free)) if free[i] not in free[:i])
    stops = {
        0: written[free[0]][:2],  # at the beginning
        new: written[free[new]][:2],  # inside a token
        2: written[free[0]][2:] + written[free[1]] + written[free[2]][:1],  # across three
    }
    automata = [stop_strings([stop.decode()], written) for stop in stops.values()]
    results = by_name(list(sampler.sample([dataclasses.replace(request, automaton=a) for a in automata])))
    for i, (last, stop) in enumerate(stops.items()):
        assert results[i, 0].finish == "stop"
        assert results[i, 0].tokens.tolist() == free[: last + 1]
        assert stop in b"".join(written[token] for token in free[: last + 1])
    words = [[3, 4, 5], [3, 6], [9]]
    answers = sampler.sample([Request(prompt(4), Sampling(4.0), samples=12, automaton=trie(words, 50, [END]))])
    found = [sample.answer for sample in answers]
    assert all(answer in words for answer in found)
    assert len({tuple(answer) for answer in found}) > 1


def test_where_nothing_is_allowed_the_row_ends(sampler):
    sample = next(sampler.sample([Request(prompt(4), automaton=grammar({(0, 5): 1}, [], 50))]))
    assert sample.finish == "dead end"
    assert sample.tokens.tolist() == [5]


def test_bad_requests_are_refused(sampler):
    with pytest.raises(UserError, match="no tokens"):
        next(sampler.sample([Request(Prompt([], 0, END))]))
    with pytest.raises(UserError, match="max_tokens=0"):
        next(sampler.sample([Request(prompt(2), max_tokens=0)]))
    assert list(sampler.sample([])) == []


# ---- what may be done to rows ----


@pytest.fixture(params=[True, False], ids=["shared", "copied"])
def opened(sampler: Sampler, request: pytest.FixtureRequest):
    """Return rows that have drawn eight tokens, without automata that matter."""
    requests = [Request(prompt(4, seed), Sampling(), max_tokens=40) for seed in range(3)]
    rows, automata = dataclasses.replace(sampler, ends=(), share=request.param).open(requests)
    return on_device.advance(MODEL, sampler.weights, rows, automata, 8), automata


def tokens_of(rows: on_device.Rows, row: int) -> list[int]:
    return np.asarray(rows.tokens)[row, : int(rows.length[row])].tolist()


def test_after_going_back_a_row_goes_on_as_if_it_had_never_gone_on(params, sampler, opened):
    rows, automata = opened
    cut = on_device.rewind(rows, jnp.array([6, 12, 3]))  # the last one into its prompt
    assert [len(tokens_of(cut, i)) for i in range(3)] == [6, 12, 3]
    given = np.array([[1, 2, 3]] * 3, np.int32)
    logp = np.asarray(on_device.score(MODEL, sampler.weights, cut, given))
    for row in range(3):
        before = tokens_of(cut, row)
        expected = whole_log_probs(params, [*before, 1, 2, 3], 0)[len(before) - 1 : -1]
        np.testing.assert_allclose(logp[row], expected[np.arange(3), [1, 2, 3]], atol=1e-4)
    on = on_device.advance(MODEL, sampler.weights, cut, automata, 8)
    # Rows that were cut draw with new noise; the others go on.
    assert tokens_of(on, 1)[:12] == tokens_of(rows, 1)
    assert tokens_of(on, 0)[:6] == tokens_of(rows, 0)[:6]
    assert tokens_of(on, 0)[6:12] != tokens_of(rows, 0)[6:12]


def test_given_tokens_are_read_and_leave_the_noise_as_it_was(params, sampler, opened):
    rows, automata = opened
    given, count = np.array([[7, 8, 9]] * 3, np.int32), jnp.array([3, 1, 0])
    plain = on_device.advance(MODEL, sampler.weights, jax.tree.map(jnp.copy, rows), automata, 8)
    before = [tokens_of(rows, i) for i in range(3)]
    forced = on_device.force(MODEL, sampler.weights, rows, automata, given, count)
    assert [tokens_of(forced, i) for i in range(3)] == [
        b + [7, 8, 9][:n] for b, n in zip(before, [3, 1, 0], strict=True)
    ]
    np.testing.assert_array_equal(forced.drawn, [8, 8, 8])
    on = on_device.advance(MODEL, sampler.weights, forced, automata, 8)
    assert tokens_of(on, 2) == tokens_of(plain, 2)
    for row in range(3):
        tokens = tokens_of(on, row)
        expected = whole_log_probs(params, tokens, 0)
        at = np.arange(4, len(tokens))
        np.testing.assert_allclose(
            np.asarray(on.logp_model)[row, at], expected[at - 1, np.array(tokens)[at]], atol=1e-4
        )


def test_branches_go_on_from_their_parent_with_noise_of_their_own(params, sampler, opened):
    rows, automata = opened
    before = [tokens_of(rows, i) for i in range(3)]
    forked = on_device.fork(rows, jnp.array([1, 1, 1]))
    copies = jax.tree.map(jnp.copy, rows._replace(epoch=rows.epoch + 1))
    assert [tokens_of(forked, i) for i in range(3)] == [before[1]] * 3
    on = on_device.advance(MODEL, sampler.weights, forked, automata, 8)
    ends = [tuple(tokens_of(on, i)[12:]) for i in range(3)]
    assert len(set(ends)) == 3
    alone = on_device.advance(MODEL, sampler.weights, copies, automata, 8)
    assert ends[1] == tuple(tokens_of(alone, 1)[12:])  # as the row itself in the next epoch
    for row in range(3):
        tokens = tokens_of(on, row)
        expected = whole_log_probs(params, tokens, 0)
        at = np.arange(12, 20)
        np.testing.assert_allclose(
            np.asarray(on.logp_model)[row, at], expected[at - 1, np.array(tokens)[at]], atol=1e-4
        )


def test_prompts_of_many_parts_equal_short_ones(sampler):
    tokens = prompt(300, 9).tokens
    whole = read_prompts(MODEL, sampler.weights, [Prompt(tokens, 0, END)])
    alone = read_prompts(MODEL, sampler.weights, [Prompt(tokens[:40], 0, END)])
    for one, other in zip(whole, alone, strict=True):
        np.testing.assert_allclose(one.keys[0, :, :40], other.keys[0, :, :40], atol=1e-5)
    sample = next(sampler.sample([Request(Prompt(tokens, 0, END), GREEDY, max_tokens=5)]))
    assert len(sample.tokens) == 5 or sample.finish == "end"


@pytest.mark.parametrize("rows", [1, 3])
def test_bfloat16_models_sample_on_every_platform(rows: int):
    """CPUs have no product of bfloat16 arrays with a float32 result for every shape."""
    model = Model.model_validate(dict(MODEL) | {"dtype": "bfloat16"})
    params = models.init(model, jax.random.key(0))
    requests = [Request(prompt(5)._replace(end=-1), max_tokens=9, samples=rows)]
    drawn = list(Sampler.of_params(model, params, (), rows=rows).sample(requests))
    assert [len(sample.tokens) for sample in drawn] == [9] * rows
