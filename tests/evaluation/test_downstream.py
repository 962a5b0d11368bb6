"""Likelihood tasks: normalizations, errors, and scores that do not depend on batches, meshes or shared prefixes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.eight_devices import run_on_eight_devices
from pathways_lite import models
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.evaluation import continuations as continuations_module
from pathways_lite.evaluation.bits import Evaluator, ScoredDocument
from pathways_lite.evaluation.choice_scores import AnswerScores, brier, mean_of, picks, probabilities
from pathways_lite.evaluation.continuations import Continuation, ContinuationScorer, encode_pair
from pathways_lite.evaluation.downstream import TaskEvaluator
from pathways_lite.evaluation.token_scores import model_score, score_answers
from pathways_lite.models.decoding import unstack
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import AdamW, Data, Model, Stage
from pathways_lite.tasks.scored_items import open_task

EOD = 256
MODEL = Model(
    d_model=32, n_layers=2, n_heads=2, head_dim=16, d_ff=64, vocab_size=257, dtype="float32", window=(20, None)
)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def params() -> models.Params:
    return jax.tree.map(lambda leaf: 3 * leaf, jax.jit(lambda: models.init(MODEL, jax.random.key(0)))())


@pytest.fixture(scope="module")
def scorer(params: models.Params) -> ContinuationScorer:
    return ContinuationScorer(MODEL, unstack(MODEL, params))


def random_tokens(count: int) -> list[int]:
    return RNG.integers(0, 256, count).tolist()


# ---- known answers ----


def test_three_normalizations_pick_as_in_the_known_example() -> None:
    scores = AnswerScores(np.array([-4.0, -5.0]), np.array([2, 4]), np.array([-3.0, -7.0]))
    # Hence (-4, -5), (-2, -1.25) and (-1, 2).
    assert picks(scores) == {"sum": 0, "token": 1, "unconditional": 1}


def test_probabilities_and_brier_scores() -> None:
    p = probabilities(np.log([0.02, 0.06]))
    np.testing.assert_allclose(p, [0.25, 0.75])
    assert brier(p, 1) == pytest.approx(2 * 0.25**2)
    assert (brier(np.array([1.0, 0.0]), 0), brier(np.array([1.0, 0.0]), 1)) == (0, 2)
    np.testing.assert_allclose(probabilities(np.array([-1e4, -1e4])), [0.5, 0.5])


def test_the_error_of_a_mean_does_not_fall_when_variants_are_added() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    mean = mean_of(values, range(5))
    assert mean == pytest.approx((0.6, np.std(values, ddof=1) / np.sqrt(5)))
    assert mean_of(np.repeat(values, 3), np.repeat(range(5), 3)) == pytest.approx(mean)
    assert np.isnan(mean_of([1.0, 0.0], ["a", "a"]).error)


# ---- scores of continuations ----


def test_scores_are_those_of_whole_passes_whatever_shares_a_batch(params: models.Params) -> None:
    shared = random_tokens(70)
    pairs = [
        *((Prompt([EOD, *shared], 0, EOD), random_tokens(n)) for n in (1, 9, 4)),
        *((Prompt([EOD, *random_tokens(n)], 0, EOD), random_tokens(5)) for n in (0, 1, 40)),
        (Prompt(prefix := [EOD, *random_tokens(12)], len(prefix), EOD), random_tokens(7)),  # of a prefix LM
    ]
    expected = score_answers(model_score(MODEL, params), pairs, 128)
    for rows in (1, 2, 16):
        found = ContinuationScorer(MODEL, unstack(MODEL, params), rows=rows).score([Continuation(*p) for p in pairs])
        for new, old in zip(found, expected, strict=True):
            np.testing.assert_allclose(new.nll, old.nll, atol=2e-5)
            assert new.likeliest.tolist() == old.likeliest.tolist()


def test_a_context_is_read_once_for_its_continuations(
    scorer: ContinuationScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = continuations_module.read_prompts

    def count(config, weights, prompts, **options):
        read.append(len(prompts))
        return original(config, weights, prompts, **options)

    monkeypatch.setattr(continuations_module, "read_prompts", count)
    contexts = [Prompt([EOD, *random_tokens(10)], 0, EOD) for _ in range(3)]
    scorer.score([Continuation(context, random_tokens(3)) for _ in range(20) for context in contexts])
    assert sum(read) == 3


def test_rolling_windows_have_the_loss_of_evaluate(params: models.Params, scorer: ContinuationScorer) -> None:
    documents = [np.array([EOD, *random_tokens(n)], np.int32) for n in (5, 40, 17)]
    losses = Evaluator(lambda params, batch: models.token_losses(MODEL, params, batch).nll, rows=4, seq_len=64)
    held_out = losses(params, [ScoredDocument(document, len(document) - 1) for document in documents])
    whole = [Continuation(Prompt([EOD], 0, EOD), [*document[1:].tolist(), EOD]) for document in documents]
    nll = sum(float(scores.nll.sum()) for scores in scorer.score(whole))
    assert nll == pytest.approx(held_out.nll, rel=1e-6)


def test_scores_are_the_same_on_meshes_of_eight_devices() -> None:
    cases = ("fsdp", "tensor", "kv heads shared", "context", "four devices", "fsdp, sharded", "context, sharded")
    differences = json.loads(run_on_eight_devices("score_continuations", *cases))
    assert set(differences) == set(cases)
    assert max(differences.values()) < 1e-4, differences


# ---- the border of context and continuation ----


class Words:
    """A tokenizer that joins a space with the word after it, as SentencePiece and byte-level BPE do."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        pieces, rest = [], text
        while rest:
            end = 1 + next((i for i, letter in enumerate(rest[1:]) if letter == " "), len(rest) - 1)
            pieces.append(rest[:end])
            rest = rest[end:]
        return [self.ids.setdefault(piece, len(self.ids)) for piece in pieces]


@pytest.mark.parametrize(
    ("context", "continuation", "tokens"),
    [
        ("a b", " c", (["a", " b"], [" c"])),
        ("a b ", "c", (["a", " b"], [" c"])),  # the space belongs to the next token
        ("a b", "c", (["a"], [" bc"])),  # the token at the border belongs to the continuation
        ("", "c d", ([], ["c", " d"])),
    ],
)
def test_the_border_is_where_the_tokens_of_the_whole_text_are_cut(
    context: str, continuation: str, tokens: tuple[list[str], list[str]]
) -> None:
    words = Words()
    before, following = encode_pair(words.encode, context, continuation)
    names = {number: piece for piece, number in words.ids.items()}
    assert ([names[i] for i in before], [names[i] for i in following]) == tokens
    assert before + following == words.encode(context + continuation)


# ---- whole tasks ----


def evaluator(*names: str, rows: int = 16, seq_len: int = 128, shots: int = 0) -> TaskEvaluator:
    stage = Stage(
        model=MODEL, data=Data(corpus="x", seq_len=seq_len), optimizer=AdamW(), batch_size=2, budget="1 steps"
    )
    tasks = [open_task(name, limit=6, shots=shots) for name in names]
    return TaskEvaluator(tasks, stage, ByteTokenizer(), DocumentFrame(EOD), rows=rows)


def test_results_do_not_depend_on_the_number_of_rows(params: models.Params) -> None:
    results = evaluator("sum", "sum:choices", shots=2).evaluate(params)
    for name, found in evaluator("sum", "sum:choices", rows=5, shots=2).evaluate(params).items():
        assert found == pytest.approx(results[name], abs=1e-4, nan_ok=True)
    choices = results["sum:choices"]
    assert (choices["items"], choices["shots"], choices["chance"]) == (6, 2, 0.25)
    assert choices["accuracy"] == choices["accuracy_token"]
    # The right answer has the same probability as a choice and as a solution, but for the end of its line.
    assert -results["sum"]["log_p"] > -choices["log_p"] > 0
    assert 0 < choices["p"] < 1


class Sevens(ByteTokenizer):
    """Decodes byte 0, which a model without weights prefers, as a line."""

    def decode(self, ids: Sequence[int]) -> str:
        return "7\n" * sum(i == 0 for i in ids)


def test_accuracy_is_of_what_the_model_writes(tmp_path: Path) -> None:
    params = jax.tree.map(np.zeros_like, jax.jit(lambda: models.init(MODEL, jax.random.key(0)))())
    records = [
        {"id": f"{n}", "prompt": "3+4=", "solution": f"{n}", "verify": {"kind": "integer", "answer": n}} for n in (7, 8)
    ]
    file = tmp_path / "sevens.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = open_task(str(file))
    (result,) = TaskEvaluator([task], evaluator().stage, Sevens(), DocumentFrame(EOD)).evaluate(params).values()
    assert (result["accuracy"], result["accuracy_se"]) == (0.5, 0.5)
    # The solution is a space and a digit, each of which has the probability 1/257.
    assert result["log_p"] == pytest.approx(-2 * np.log(257), rel=1e-5)
    assert result["loss"] == pytest.approx(np.log(257), rel=1e-5)
    assert result["p"] == pytest.approx(257.0**-2, rel=1e-4)
    assert result["brier"] == pytest.approx(2 * (1 - 257.0**-2) ** 2, rel=1e-5)


def test_items_longer_than_the_context_are_refused(params: models.Params) -> None:
    with pytest.raises(UserError, match=r"task sum: item 'sum-[0-9a-f]+' has \d+ tokens with its answer and shots"):
        evaluator("sum", seq_len=32, shots=4).evaluate(params)


def test_the_number_of_shots_that_fit_is_the_largest(params: models.Params) -> None:
    with pytest.raises(UserError) as refused:
        evaluator("sum", seq_len=64, shots=500).prepare()
    (most,) = map(int, re.findall(r"at most (\d+) shots fit: use --shots \d+, leave such", str(refused.value)))
    evaluator("sum", seq_len=64, shots=most).prepare()
    with pytest.raises(UserError, match=rf"at most {most} shots? fits?: use"):
        evaluator("sum", seq_len=64, shots=most + 1).prepare()
    with pytest.raises(UserError, match="even without shots not all items fit: leave such items out"):
        evaluator("sum", seq_len=4, shots=2).prepare()
