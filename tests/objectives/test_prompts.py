"""Prompts and answers have the format of training examples, to the token."""

import numpy as np
import pytest

from helpers.denoising_examples import (
    EOD,
    FIRST,
    FRAME,
    TOKENS,
    Example,
    examples,
    make_objective_batch,
    segment,
    windows,
)
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.prompts import PromptFormat
from pathways_lite.recipe import UL2R, Causal, CodeGen2, FillInTheMiddle, Objective, PrefixLM, SpanCorruption


def ask(objective: Objective) -> PromptFormat:
    return PromptFormat.from_objective(objective.model_copy(update={"tokens": TOKENS}), FRAME)


def texts_and_gaps(example: Example) -> tuple[list[list[int]], list[list[int]]]:
    tokens = example.tokens
    if TOKENS.middle in tokens:
        return [segment(tokens, TOKENS.prefix), segment(tokens, TOKENS.suffix)], [segment(tokens, TOKENS.middle)]
    cut = example.inputs or tokens.index(TOKENS.separator) - 1
    head, tail = tokens[:cut], tokens[cut:]
    sentinels = [token for token in head[1:] if token < FIRST]
    return [segment(head, token) for token in [head[0], *sentinels]], [segment(tail, token) for token in sentinels]


@pytest.mark.parametrize(
    "objective",
    [
        SpanCorruption(mode="nlg", rate=0.4),
        SpanCorruption(),
        CodeGen2(rate=1, mean_span=4),
        FillInTheMiddle(rate=1, spm=0),
        FillInTheMiddle(rate=1, spm=1),
    ],
)
def test_a_prompt_and_its_answer_are_a_training_example(objective: Objective) -> None:
    prompt_format = ask(objective)
    for row in range(len(x := windows(8, 60, 0.0))):
        (example,) = examples(make_objective_batch(objective, x[row : row + 1]), 0)
        texts, gaps = texts_and_gaps(example)
        prompt, answer = prompt_format.infill(texts), prompt_format.expected_answer(gaps)
        assert [*prompt.tokens, *answer, prompt.end] == [*example.tokens, example.end]
        assert prompt.prefix_length == example.inputs
        assert prompt_format.parse_gaps(answer, len(gaps)) == gaps


def test_in_the_second_variant_of_spm_the_middle_follows_its_prefix() -> None:
    """The two variants cut a text at the same places."""
    first, second = (FillInTheMiddle(rate=1, spm=1, spm_variant=variant) for variant in (1, 2))
    prompt_format = ask(second)
    for row in range(len(x := windows(8, 60, 0.0))):
        (example,) = examples(make_objective_batch(first, x[row : row + 1]), 0)
        (joint,) = examples(make_objective_batch(second, x[row : row + 1]), 0)
        (prefix, suffix), (middle,) = texts_and_gaps(example)
        expected = [TOKENS.prefix, TOKENS.suffix, *suffix, TOKENS.middle, *prefix, *middle]
        assert joint.tokens == expected
        prompt, answer = prompt_format.infill([prefix, suffix]), prompt_format.expected_answer([middle])
        assert [*prompt.tokens, *answer, prompt.end] == [*joint.tokens, joint.end]
        assert prompt_format.parse_gaps(answer, 1) == [middle]
        assert (prompt.prefix_length, joint.inputs, joint.loss_from) == (0, 0, 0)


@pytest.mark.parametrize(
    ("objective", "mode"),
    [(PrefixLM(mode="s2s"), "s2s"), (PrefixLM(mode="nlu"), "nlu"), (PrefixLM(), None), (Causal(), None)],
)
def test_a_continuation_is_a_training_example(objective: Objective, mode: str | None) -> None:
    x = windows(1, 60, 0.0)
    x[0, 0] = EOD
    batch = make_objective_batch(objective, x) if mode or isinstance(objective, PrefixLM) else None
    prompt_format = ask(objective) if batch is not None else PromptFormat.from_objective(objective, FRAME)
    split = int(batch.spans.stop[0, 0]) if batch is not None else 9
    prompt = prompt_format.continuation(x[0, 1:split].tolist(), mode)  # type: ignore[arg-type]
    assert prompt.prefix_length == (split if batch is not None else 0)
    assert prompt.tokens == (x[0] if batch is None else batch.tokens[0])[:split].tolist()


def test_modes_of_span_corruption_ask_for_the_first_gap() -> None:
    prompt = ask(UL2R()).continuation([FIRST, FIRST + 1], "nlg")
    assert prompt == ([TOKENS.nlg, FIRST, FIRST + 1, TOKENS.first_sentinel], 4, EOD)
    answer = [TOKENS.first_sentinel, FIRST + 2, TOKENS.first_sentinel - 1, FIRST + 3]
    assert ask(UL2R()).text(answer) == [FIRST + 2, FIRST + 3]


def test_short_gaps_are_asked_for_in_the_regular_mode() -> None:
    texts = [[FIRST], [FIRST + 1], [FIRST + 2]]
    assert ask(UL2R()).infill(texts).tokens[0] == TOKENS.nlu
    assert ask(UL2R()).infill(texts, "nlg").tokens[0] == TOKENS.nlg


def test_prompts_that_were_not_trained_are_refused() -> None:
    with pytest.raises(UserError, match="not trained to fill gaps"):
        PromptFormat.from_objective(Causal(), FRAME).infill([[1], [2]])
    with pytest.raises(UserError, match="one gap"):
        ask(FillInTheMiddle()).infill([[1], [2], [3]])
    with pytest.raises(UserError, match="not trained with mode 'nlg'; use nlu"):
        ask(SpanCorruption(mode="nlu")).continuation([1], "nlg")
    with pytest.raises(UserError, match="not trained to fill gaps with mode 's2s'; use nlg or nlu"):
        ask(UL2R()).infill([[1], [2]], "s2s")
    with pytest.raises(UserError, match="not trained to fill gaps with mode 'nlu'; it has no mode tokens"):
        ask(FillInTheMiddle(rate=1)).infill([[1], [2]], "nlu")
    with pytest.raises(UserError, match="no id is left"):
        PromptFormat.for_untrained(text_ids=257, vocab_size=260, frame=DocumentFrame(256))
    few = ask(SpanCorruption()).special.tokens.model_copy(update={"sentinels": 3})  # type: ignore[union-attr]
    for objective, most in ((SpanCorruption(tokens=few), 2), (CodeGen2(rate=1, tokens=few), 3), (Causal(), 0)):
        prompt_format = PromptFormat.from_objective(objective, FRAME)
        assert [prompt_format.can_fill(gaps) for gaps in range(1, 5)] == [gaps <= most for gaps in range(1, 5)]
    assert [ask(FillInTheMiddle()).can_fill(gaps) for gaps in (1, 2)] == [True, False]
    assert PromptFormat.for_untrained(text_ids=257, vocab_size=300, frame=DocumentFrame(256)).infill(
        [[1], [2]]
    ).tokens == [
        258,
        1,
        299,
        2,
        298,
    ]
    with pytest.raises(UserError, match=f"these gaps need {TOKENS.sentinels + 1} sentinels, but the model has"):
        ask(UL2R()).infill([[1]] * (TOKENS.sentinels + 1))


@pytest.mark.parametrize("objective", [SpanCorruption(mode="nlg", rate=0.4), SpanCorruption()])
def test_text_after_the_last_gap_is_followed_by_another_gap(
    objective: Objective,
) -> None:
    """Examples of span corruption always end in a gap; the model never saw any other kind of example."""
    prompt_format, compared = ask(objective), 0
    for row in range(len(x := windows(8, 60, 0.0))):
        (example,) = examples(make_objective_batch(objective, x[row : row + 1]), 0)
        texts, gaps = texts_and_gaps(example)
        assert texts[-1] == []
        if len(gaps) > 1:
            prompt, answer = prompt_format.infill(texts[:-1]), prompt_format.expected_answer(gaps[:-1])
            asked = [*prompt.tokens, *answer, prompt.end]
            assert asked == example.tokens[: len(asked)]
            assert prompt.prefix_length == example.inputs
            compared += 1
    assert compared > 4


def test_a_malformed_answer_is_parsed_as_far_as_possible() -> None:
    prompt_format = ask(UL2R())
    s = TOKENS.first_sentinel
    assert prompt_format.parse_gaps(np.array([FIRST, s - 1, FIRST + 1, 5, s, FIRST + 2]).tolist(), 3) == [
        [FIRST + 2],
        [FIRST + 1],
        [],
    ]
