"""Scores of answers: exact means what greedy decoding would write, and likelihoods are the model's."""

import jax
import numpy as np
import pytest

from helpers.denoising_examples import examples
from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.as_trained import score_as_trained
from pathways_lite.evaluation.generation import Writer, generate
from pathways_lite.evaluation.infilling import score_continuations, score_gaps
from pathways_lite.evaluation.token_scores import TokenScores, model_score, score_answers
from pathways_lite.objectives.batches import make_batch
from pathways_lite.objectives.denoisers import default_special_tokens
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.recipe import UL2R, CodeGen2, FillInTheMiddle, Model, PrefixLM, SpanCorruption
from pathways_lite.sampling import GREEDY, Request, Sample, Sampler

TEXT, VOCABULARY, EOD, T = 100, 160, 0, 64
FRAME = DocumentFrame(EOD)
CONFIG = Model(
    d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab_size=VOCABULARY, dtype="float32", tie_embeddings=False
)
FORMAT = PromptFormat.from_objective(UL2R(tokens=default_special_tokens(TEXT, VOCABULARY)), FRAME)


@pytest.fixture(scope="module")
def params() -> models.Params:
    params = jax.jit(models.init, static_argnums=0)(CONFIG, jax.random.key(1))
    return params | {"head": params["head"].at[EOD].set(0)}  # never the likeliest, so that texts are long


def drawn(params: models.Params, prompt: Prompt, n: int = 6) -> Sample:
    return next(Sampler.of_params(CONFIG, params, FRAME.ids, rows=1).sample([Request(prompt, GREEDY, n)]))


def write(params: models.Params, prompt: Prompt, n: int = 6) -> list[int]:
    return drawn(params, prompt, n).answer


def answer_scores(params: models.Params, pairs: list[tuple[Prompt, list[int]]]) -> list[TokenScores]:
    return score_answers(model_score(CONFIG, params), pairs, T)


def test_what_greedy_decoding_writes_is_the_likeliest(params: models.Params) -> None:
    """The cache gives the same as one pass, whether or not the prompt is read as a prefix, which makes a difference."""
    text = np.random.default_rng(0).integers(1, TEXT, 20).tolist()
    prompts = [Prompt(text, 0, EOD), Prompt(text, 20, EOD), Prompt(text, 7, EOD), Prompt(text[:9], 9, EOD)]
    samples = [drawn(params, prompt) for prompt in prompts]
    answers = [sample.answer for sample in samples]
    scores = answer_scores(params, list(zip(prompts, answers, strict=True)))
    assert all(scored.likeliest.all() for scored in scores)
    for sample, scored in zip(samples, scores, strict=True):
        np.testing.assert_allclose(sample.logp_model[: len(scored.nll)], -np.asarray(scored.nll), atol=1e-4)
    assert not np.allclose(*(answer_scores(params, [(p, answers[0])])[0].nll for p in prompts[:2]))
    wrong = [*answers[1][:2], answers[1][2] % (TEXT - 1) + 1, *answers[1][3:]]
    assert answer_scores(params, [(prompts[1], wrong)])[0].likeliest[:3].tolist() == [True, True, False]


def test_an_answer_stops_before_its_end(params: models.Params) -> None:
    prompt = Prompt(list(range(1, 20)), 0, EOD)
    answer = write(params, prompt)
    fourth = answer[3]
    stopped = write(params, prompt._replace(end=fourth))
    assert stopped == answer[: answer.index(fourth)]


def test_likelihoods_are_a_distribution(params: models.Params) -> None:
    pairs = [(Prompt([EOD, 3, 5], 3, EOD), [token]) for token in range(VOCABULARY)]
    total = sum(np.exp(-scored.nll[0]) for scored in answer_scores(params, pairs))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_answers_that_share_a_row_do_not_see_each_other(params: models.Params) -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for length in (3, 30, 9, 41, 17, 5, 12):
        tokens = rng.integers(1, TEXT, length).tolist()
        cut = int(rng.integers(1, length))
        pairs.append((Prompt(tokens[:cut], int(rng.integers(0, cut + 1)), EOD), tokens[cut:]))
    together = answer_scores(params, pairs)
    for pair, scores in zip(pairs, together, strict=True):
        (alone,) = answer_scores(params, [pair])
        np.testing.assert_allclose(scores.nll, alone.nll, atol=1e-5)
        np.testing.assert_array_equal(scores.likeliest, alone.likeliest)
    with pytest.raises(ValueError, match="a prompt and its answer have 66 tokens, more than 65"):
        answer_scores(params, [(Prompt([1] * 60, 0, EOD), [2] * 6)])


def test_every_window_of_every_document_is_asked(params: models.Params) -> None:
    """58 tokens of text per window with one gap, 49 with four; windows of fewer than 32 tokens have none."""
    rng = np.random.default_rng(0)
    documents = [np.append(EOD, rng.integers(1, TEXT, n)) for n in (500, 40, 31, 5, 33)]
    score = model_score(CONFIG, params)
    results = {name: task.summary() for name, task in score_gaps(score, FORMAT, documents, T, EOD).items()}
    windows = {"single": 8 + 1 + 1 + 1, "several": 10 + 1 + 1}  # 500 = 8 * 58 + 36 = 10 * 49 + 10
    assert results["single"]["gaps"] == windows["single"]
    assert results["several"]["gaps"] == 4 * windows["several"]
    for name, result in results.items():
        assert result["tokens"] == result["gaps"] * {"single": 8, "several": 3}[name]
        assert result["documents"] == 3
        assert result["exact"] == 0  # untrained
        assert 4 < result["loss"] < 7
        assert 4 < result["loss_left_to_right"] < 7
        assert result["difference"] == pytest.approx(result["loss"] - result["loss_left_to_right"])
        assert result["standard_error"] > 0
    again = score_gaps(score, FORMAT, documents, T, EOD)
    assert results == {name: task.summary() for name, task in again.items()}
    parts = [again["single"].summary(*bounds) for bounds in ((0, 1), (1, 3), (3, 5))]
    assert [part["gaps"] for part in parts] == [9, 1, 1]
    weighted = sum(part["difference"] * part["tokens"] for part in parts) / results["single"]["tokens"]
    assert weighted == pytest.approx(results["single"]["difference"])
    assert again["single"].summary(3, 4) == {}
    nlg = PromptFormat.from_objective(PrefixLM(mode="nlg", tokens=FORMAT.special.tokens), FRAME)
    for prompt_format in (FORMAT, nlg):
        prefix = score_continuations(score, prompt_format, documents, T, EOD).summary()
        assert prefix["loss"] != prefix["loss_left_to_right"]  # another prompt
        assert prefix["tokens"] == 7 * 32 + 26 + 20 + 16  # 500 = 7 * 64 + 52
    few = FORMAT.special.tokens.model_copy(update={"sentinels": 2})
    prompt_format = PromptFormat.from_objective(UL2R(tokens=few), FRAME)
    assert list(score_gaps(score, prompt_format, documents, T, EOD)) == ["single"]


# ---- a reader who knows everything ----

FIRST_OF_TEXT = 1000
SPECIAL = default_special_tokens(100, 1000)
FORMATS = {
    "spans": SpanCorruption(rate=0.3, mean_span=3, mode="nlu", tokens=SPECIAL),
    "middle": FillInTheMiddle(rate=1, spm=0, tokens=SPECIAL),
    "codegen2": CodeGen2(rate=1, tokens=SPECIAL, mean_span=4),
}


def knows_what_follows(tokens: np.ndarray, targets: np.ndarray, positions: np.ndarray, spans: Spans) -> tuple:
    """Predict a token of ascending text surely if it sees a later one, else at 1 nat and wrongly; the others surely."""
    sure = targets < FIRST_OF_TEXT
    for row, position in np.argwhere(~sure):
        seen = tokens[row, spans.start[row, position] : spans.stop[row, position]]
        sure[row, position] = (seen > targets[row, position]).any()
    return np.where(sure, 0.0, 1.0), sure


def ascending(*lengths: int) -> list[np.ndarray]:
    """Return documents whose tokens all differ and ascend."""
    ends = FIRST_OF_TEXT + np.cumsum(lengths)
    return [np.append(EOD, np.arange(end - n, end)).astype(np.int32) for n, end in zip(lengths, ends, strict=True)]


@pytest.mark.parametrize("name", FORMATS)
def test_who_knows_what_follows_fills_every_gap(name: str) -> None:
    """Each format shows the text after a gap before the gap, and reading from left to right does not."""
    documents = ascending(300, 60, 90, 44)
    prompt_format = PromptFormat.from_objective(FORMATS[name], FRAME)
    asked = score_gaps(knows_what_follows, prompt_format, documents, T, EOD)
    results = {name: task.summary() for name, task in asked.items()}
    assert list(results) == (["single"] if name == "middle" else ["single", "several"])
    results["as_trained"] = score_as_trained(
        knows_what_follows,
        FORMATS[name],
        documents,
        T,
        frame=FRAME,
        opener=EOD,
        boundaries="document",
        seed=3,
    ).summary()
    for result in results.values():
        known = {"exact": 1, "loss": 0, "loss_left_to_right": 1, "difference": -1, "standard_error": 0}
        assert {key: result[key] for key in known} == known
        assert result["tokens"] >= result["gaps"] > 3
        assert result["documents"] >= 3
    trained = results["as_trained"]
    assert trained["format_loss"] == 0
    # Nothing follows the last span, or what is read in order.
    unknown = trained["content_tokens"] - trained["tokens"]
    assert trained["content_loss"] == pytest.approx(unknown / trained["content_tokens"])
    assert unknown > 0


def test_the_last_sentinel_stands_for_text_that_is_there() -> None:
    """In training the last span is never empty, and its sentinel ends the inputs."""
    (document,) = ascending(40)
    prompts = []

    def record(tokens: np.ndarray, targets: np.ndarray, positions: np.ndarray, spans: Spans) -> tuple:
        prompts.append(tokens[0].tolist())
        return knows_what_follows(tokens, targets, positions, spans)

    score_gaps(record, PromptFormat.from_objective(FORMATS["spans"], FRAME), [document], T, EOD)
    prompt, text = prompts[0], document[1:].tolist()  # of `single`
    first, second = SPECIAL.sentinel_ids[:2]
    inputs = prompt[1 : prompt.index(second) + 1]
    assert inputs[-1] == second
    shown = [token for token in inputs if token >= FIRST_OF_TEXT]
    assert len(text) - len(shown) == 16  # a gap, and as many tokens at the end
    assert max(shown) == text[-9]
    assert inputs.count(first) == 1


def test_tokens_are_paired_with_themselves() -> None:
    """Whoever's nats depend on the token alone has the same both ways, with every opener."""

    def by_token(tokens: np.ndarray, targets: np.ndarray, positions: np.ndarray, spans: Spans) -> tuple:
        return (targets * 7919 % 1009) / 100, targets % 2 == 0

    documents = ascending(300, 60, 90, 44)
    for objective in FORMATS.values():
        prompt_format = PromptFormat.from_objective(objective, FRAME)
        for opener in (EOD, SPECIAL.s2s):
            ways = {"frame": FRAME, "opener": opener, "seed": 1}
            for boundaries in ("document", "none"):
                scores = score_as_trained(by_token, objective, documents, T, boundaries=boundaries, **ways)
                trained = scores.summary()
                assert trained["difference"] == trained["standard_error"] == 0
            for task in score_gaps(by_token, prompt_format, documents, T, opener).values():
                result = task.summary()
                assert result["difference"] == result["standard_error"] == 0
                assert result["loss"] > 1


def test_as_trained_against_examples_one_by_one(params: models.Params) -> None:
    """Each example of a packed row alone, and each token from left to right after its document's text in the window."""
    order, width = np.random.default_rng(5).permutation(np.arange(1, TEXT)), 24
    documents = [np.append(EOD, text) for text in np.split(order[:90], [30, 38, 58, 72, 80])]  # no token comes twice
    objective = SpanCorruption(rate=0.5, mean_span=1.5, mode="nlu", tokens=FORMAT.special.tokens)
    opener = FORMAT.special.tokens.s2s
    scores = score_as_trained(
        model_score(CONFIG, params),
        objective,
        documents,
        width,
        frame=FRAME,
        opener=opener,
        boundaries="document",
        seed=3,
    )
    result = scores.summary()
    stream = np.concatenate(documents)
    windows = np.stack([stream[first : first + width + 1] for first in range(0, len(stream) - width, width)])
    batch = make_batch(objective, windows, FRAME, "document", np.zeros(len(windows)), np.arange(len(windows)), 3)
    content, special, pairs = [], [], []
    for row, window in enumerate(windows):
        for example in examples(batch, row):
            inputs, answer = example.tokens[: example.loss_from + 1], [*example.tokens, example.end]
            answer = answer[example.loss_from + 1 :]
            (scored,) = answer_scores(params, [(Prompt(inputs, example.inputs, EOD), answer)])
            sentinels = [token for token in inputs if token in objective.tokens.sentinel_ids]
            span = None
            for target, nll in zip(answer, scored.nll, strict=True):
                if not 0 < target < TEXT:
                    special.append(nll)
                    span = target
                    continue
                content.append(nll)
                if sentinels and span != sentinels[-1]:
                    place = int(np.flatnonzero(window == target)[0])
                    begin = max(np.flatnonzero(window[:place] == EOD), default=0)
                    text = [opener if token == EOD else int(token) for token in window[begin:place]]
                    (left,) = answer_scores(params, [(Prompt(text, 0, EOD), [target])])
                    document = next(i for i, text in enumerate(documents) if target in text)
                    pairs.append((nll, left.nll[0], document))
    nll, left_to_right, owner = np.array(pairs).T
    difference = nll - left_to_right
    sums = [(difference - difference.mean())[owner == document].sum() for document in np.unique(owner)]
    error = (len(sums) / (len(sums) - 1) * np.square(sums).sum()) ** 0.5 / len(pairs)
    expected = {
        "loss": nll.mean(), "loss_left_to_right": left_to_right.mean(), "difference": difference.mean(),
        "standard_error": error, "content_loss": np.mean(content), "format_loss": np.mean(special),
    }  # fmt: skip
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    counts = {"tokens": len(pairs), "documents": len(sums)}
    counts |= {"content_tokens": len(content), "format_tokens": len(special)}
    assert {key: result[key] for key in counts} == counts
    by_document = [scores.summary(first, first + 1) for first in range(len(documents))]
    for counted in ("tokens", "gaps", "content_tokens", "format_tokens"):
        assert sum(part.get(counted, 0) for part in by_document) <= result[counted]
    assert [part["tokens"] for part in by_document if part] == [int((owner == i).sum()) for i in np.unique(owner)]
    assert len(pairs) > 10
    assert len(sums) > 1


class Numbers:
    """Tokens below TEXT are numbers."""

    eod = EOD

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        assert all(0 < token < TEXT for token in tokens)
        return "".join(f"{token} " for token in tokens)


def test_filled_text_has_the_text_around_the_gaps(params: models.Params) -> None:
    writer = Writer(CONFIG, params, Numbers(), FORMAT, rows=1)
    filled = next(writer.filled("7 8 <mask> 9 <mask>", GREEDY, max_tokens=12)).text
    ask = {"max_tokens": 12, "key": jax.random.key(0)}
    assert filled.startswith("7 8 ")
    assert "9 " in filled
    continuation = generate(CONFIG, params, Numbers(), "7 8", temperature=0, prompt_format=FORMAT, mode="s2s", **ask)
    assert continuation == Numbers().decode(FORMAT.text(write(params, FORMAT.continuation([7, 8], "s2s"), 12)))
