"""Causal loss by opener and position: the same tokens, another first token."""

import numpy as np
import pytest

from pathways_lite.batch import Batch
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.bits import Evaluator, ScoredDocument
from pathways_lite.evaluation.openers import openers, score_openers, summarize_openers
from pathways_lite.objectives.denoisers import default_special_tokens
from pathways_lite.objectives.prompts import PromptFormat
from pathways_lite.recipe import UL2R, Causal, FillInTheMiddle, SpanCorruption

EOD, T = 0, 8
FRAME = DocumentFrame(EOD)
TOKENS = default_special_tokens(100, 200)
DOCUMENTS = [
    ScoredDocument(np.append(EOD, np.arange(1, n + 1)).astype(np.int32), n, whole)
    for n, whole in ((40, True), (3, True), (20, False))
]


def depends_on_the_first_token(params: object, batch: Batch) -> np.ndarray:
    """Nats: the target, and 10 more in windows that a mode token opens, less 1 for each position after it."""
    start = np.asarray(batch.spans.start)
    opener = np.take_along_axis(np.asarray(batch.tokens), start, axis=1)
    position = np.arange(batch.tokens.shape[1]) - start
    return np.asarray(batch.targets) + np.where(opener == TOKENS.s2s, 10.0 - position, 0.0)


def test_which_tokens_open() -> None:
    def of(objective: object) -> dict[str, int]:
        return openers(PromptFormat.from_objective(objective, FRAME))  # type: ignore[arg-type]

    assert of(Causal()) == {"eod": EOD}
    assert of(FillInTheMiddle(tokens=TOKENS)) == {"eod": EOD}
    assert of(UL2R(tokens=TOKENS)) == {"eod": EOD, "s2s": TOKENS.s2s}
    assert of(SpanCorruption(mode="nlu", tokens=TOKENS)) == {"eod": EOD, "nlu": TOKENS.nlu}


def test_the_same_tokens_behind_both() -> None:
    evaluator = Evaluator(depends_on_the_first_token, rows=2, seq_len=T)
    # Evaluator compiles its function; this one reads NumPy arrays.
    evaluator._token_losses = depends_on_the_first_token  # type: ignore[assignment]
    results = summarize_openers(score_openers(evaluator, None, DOCUMENTS, {"eod": EOD, "s2s": TOKENS.s2s}))
    targets = [[*range(1, 41), EOD], [1, 2, 3, EOD], [*range(1, 21)]]
    extra = [[10 - i % T for i in range(len(document))] for document in targets]
    for name, sign in (("eod", 0), ("s2s", 1)):
        nll = [np.array(t) + sign * np.array(e) for t, e in zip(targets, extra, strict=True)]
        first = np.concatenate([values[:16] for values in nll])
        rest = np.concatenate([values[16:] for values in nll])
        both = np.concatenate(nll)
        expected = {"documents": 3, "loss": both.mean(), "tokens": 65, "first_16_loss": first.mean()}
        expected |= {"first_16_tokens": 36, "rest_loss": rest.mean(), "rest_tokens": 29}
        assert {key: results[name][key] for key in expected} == pytest.approx(expected)
    assert results["eod"]["loss"] == evaluator(None, DOCUMENTS).loss
    difference = np.concatenate(extra).mean()
    assert results["s2s"]["difference"] == pytest.approx(difference)
    sums = [(np.array(values) - difference).sum() for values in extra]
    assert results["s2s"]["standard_error"] == pytest.approx((1.5 * np.square(sums).sum()) ** 0.5 / 65)
    assert results["best"] == {"opener": "eod", **results["eod"]}
