"""Prompts and answers that are longer than what a model was trained on are refused, or said."""

import pytest

from pathways_lite.errors import UserError
from pathways_lite.evaluation.context import default_tokens, length_warning, require_room


def test_a_prompt_beyond_the_context_is_refused() -> None:
    require_room({"p1": 2, "p4": 6}, 6)
    with pytest.raises(UserError, match="problem 'p4' has 6 tokens, and the model was trained on sequences of 5"):
        require_room({"p1": 2, "p4": 6}, 5)


def test_an_answer_may_fill_the_context_and_no_more() -> None:
    # 10 tokens are read, and then 6 of the 7 that are written.
    assert length_warning([3, 10], 7, 16) is None
    warning = length_warning([3, 10], 8, 16)
    assert warning is not None
    assert "the longest prompt has 10 tokens and up to 8 follow" in warning
    assert "trained on sequences of 16" in warning
    assert "use --max-tokens 7 or fewer" in warning


def test_a_prompt_without_room_for_an_answer_is_to_be_shorter() -> None:
    warning = length_warning([20], 1, 16)
    assert warning is not None
    assert "the prompt has 20 tokens" in warning
    assert warning.endswith("use a shorter prompt")


@pytest.mark.parametrize(("lengths", "context", "tokens"), [([4], 2048, 256), ([4, 200], 256, 57), ([250], 256, 256)])
def test_the_default_stays_within_the_context_where_there_is_room(
    lengths: list[int], context: int, tokens: int
) -> None:
    assert default_tokens(lengths, context) == tokens
