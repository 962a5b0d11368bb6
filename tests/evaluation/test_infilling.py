"""Scores of answers: exact means what greedy decoding would write, and likelihoods are the model's."""

import jax
import numpy as np
import pytest

from pathways_lite import models
from pathways_lite.evaluation.generation import Sampling, complete, generate, infill_text
from pathways_lite.evaluation.infilling import evaluate_infilling, evaluate_prefix, score_tokens
from pathways_lite.objectives.denoisers import default_special_tokens
from pathways_lite.objectives.prompts import Prompt, PromptFormat
from pathways_lite.recipe import UL2R, Model, PrefixLM

TEXT, VOCABULARY, EOD, T = 100, 160, 0, 64
CONFIG = Model(
    d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab_size=VOCABULARY, dtype="float32", tie_embeddings=False
)
FORMAT = PromptFormat.from_objective(UL2R(tokens=default_special_tokens(TEXT, VOCABULARY)), EOD)
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def params() -> models.Params:
    params = jax.jit(models.init, static_argnums=0)(CONFIG, jax.random.key(1))
    return params | {"head": params["head"].at[EOD].set(0)}  # never the likeliest, so that texts are long


def write(params: models.Params, prompt: Prompt, n: int = 6) -> list[int]:
    return complete(CONFIG, params, prompt, GREEDY, max_tokens=n, eod=EOD, key=jax.random.key(0))


def test_what_greedy_decoding_writes_is_the_likeliest(params: models.Params) -> None:
    """The cache gives the same as one pass, whether or not the prompt is read as a prefix, which makes a difference."""
    text = np.random.default_rng(0).integers(1, TEXT, 20).tolist()
    prompts = [Prompt(text, 0, EOD), Prompt(text, 20, EOD), Prompt(text, 7, EOD), Prompt(text[:9], 9, EOD)]
    answers = [write(params, prompt) for prompt in prompts]
    scores = score_tokens(CONFIG, params, list(zip(prompts, answers, strict=True)), T)
    assert all(scored.likeliest.all() for scored in scores)
    assert not np.allclose(*(score_tokens(CONFIG, params, [(p, answers[0])], T)[0].nll for p in prompts[:2]))
    wrong = [*answers[1][:2], answers[1][2] % (TEXT - 1) + 1, *answers[1][3:]]
    assert score_tokens(CONFIG, params, [(prompts[1], wrong)], T)[0].likeliest[:3].tolist() == [True, True, False]


def test_an_answer_stops_before_its_end(params: models.Params) -> None:
    prompt = Prompt(list(range(1, 20)), 0, EOD)
    answer = write(params, prompt)
    fourth = answer[3]
    stopped = write(params, prompt._replace(end=fourth))
    assert stopped == answer[: answer.index(fourth)]


def test_likelihoods_are_a_distribution(params: models.Params) -> None:
    pairs = [(Prompt([EOD, 3, 5], 3, EOD), [token]) for token in range(VOCABULARY)]
    total = sum(np.exp(-scored.nll[0]) for scored in score_tokens(CONFIG, params, pairs, T))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_tasks_over_documents(params: models.Params) -> None:
    rng = np.random.default_rng(0)
    documents = [np.append(EOD, rng.integers(1, TEXT, n)) for n in (500, 40, 31, 5, 33)]
    results = evaluate_infilling(CONFIG, params, FORMAT, documents, T)
    assert {name: result["gaps"] for name, result in results.items()} == {"single": 3, "several": 12}
    for result in results.values():
        assert result["exact"] == 0  # untrained
        assert 4 < result["loss"] < 7
        assert 4 < result["loss_left_to_right"] < 7
    assert results == evaluate_infilling(CONFIG, params, FORMAT, documents, T)
    nlg = PromptFormat.from_objective(PrefixLM(mode="nlg", tokens=FORMAT.special.tokens), EOD)
    for prompt_format in (FORMAT, nlg):
        prefix = evaluate_prefix(CONFIG, params, prompt_format, documents, T)
        assert prefix["loss"] != prefix["loss_left_to_right"]  # another prompt
    prefix = evaluate_prefix(CONFIG, params, FORMAT, documents, T)
    assert prefix["tokens"] == 32 + 20 + 16
    few = FORMAT.special.tokens.model_copy(update={"sentinels": 2})
    prompt_format = PromptFormat.from_objective(UL2R(tokens=few), EOD)
    assert list(evaluate_infilling(CONFIG, params, prompt_format, documents, T)) == ["single"]


class Numbers:
    """Tokens below TEXT are numbers."""

    eod = EOD

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        assert all(0 < token < TEXT for token in tokens)
        return "".join(f"{token} " for token in tokens)


def test_filled_text_has_the_text_around_the_gaps(params: models.Params) -> None:
    ask = {"max_tokens": 12, "key": jax.random.key(0)}
    filled = infill_text(CONFIG, params, Numbers(), FORMAT, "7 8 <mask> 9 <mask>", GREEDY, **ask)
    assert filled.startswith("7 8 ")
    assert "9 " in filled
    continuation = generate(CONFIG, params, Numbers(), "7 8", temperature=0, prompt_format=FORMAT, mode="s2s", **ask)
    assert continuation == Numbers().decode(FORMAT.text(write(params, FORMAT.continuation([7, 8], "s2s"), 12)))
