"""Special tokens: where their ids come from, and what is refused."""

import pytest
from examples import EOD, TOKENS

from pathways_lite.errors import UserError
from pathways_lite.objectives.members import sentinels_needed
from pathways_lite.objectives.special import with_special_tokens
from pathways_lite.recipe import UL2, UL2R, Causal, CodeGen2, FillInTheMiddle, PrefixLM

WHERE = {"seq_len": 256, "text_ids": 4096, "eod": EOD}


def test_ids_beyond_the_tokenizers_are_taken_at_both_ends() -> None:
    tokens = with_special_tokens(UL2R(), vocab_size=4352, **WHERE).tokens
    assert list(tokens.named.values()) == list(range(4096, 4104))
    assert (tokens.first_sentinel, tokens.sentinels) == (4351, 248)
    for objective in (UL2(), FillInTheMiddle(), CodeGen2()):  # every stage of a model has the same
        assert with_special_tokens(objective, vocab_size=4352, **WHERE | {"seq_len": 128}).tokens == tokens


def test_what_needs_none_gets_none() -> None:
    for objective in (Causal(), PrefixLM()):
        assert with_special_tokens(objective, vocab_size=4096, **WHERE) is objective
    assert with_special_tokens(PrefixLM(mode="s2s"), vocab_size=4200, **WHERE).tokens is not None


@pytest.mark.parametrize(("seq_len", "sentinels"), [(256, 32), (2048, 256)])
def test_too_few_are_refused_with_the_number(seq_len: int, sentinels: int) -> None:
    """X with rate 0.5 and spans of 3: of 2048 positions 1534 tokens in 256 spans (T5's 512 per 3 tokens of noise)."""
    assert sentinels_needed(UL2R(), seq_len) == sentinels
    needed = 8 + sentinels
    where = WHERE | {"seq_len": seq_len}
    with pytest.raises(UserError, match=f"needs {needed} special tokens.*leaves 20; set model.vocab_size to at least"):
        with_special_tokens(UL2R(), vocab_size=4116, **where)
    with pytest.raises(UserError, match=f"leaves {needed - 1}; .*at least {4096 + needed} "):
        with_special_tokens(UL2R(), vocab_size=4096 + needed - 1, **where)
    assert with_special_tokens(UL2R(), vocab_size=4096 + needed, **where).tokens.sentinels == sentinels


def test_declared_ids_are_checked() -> None:
    few = TOKENS.model_copy(update={"sentinels": 20})
    with pytest.raises(UserError, match=r"needs 32 sentinels for seq_len=256, but .* declares 20"):
        with_special_tokens(UL2R(tokens=few), vocab_size=4352, **WHERE)
    with pytest.raises(UserError, match="declares id 999, but the model has vocab_size=900"):
        with_special_tokens(UL2R(tokens=TOKENS), vocab_size=900, **WHERE)
    with pytest.raises(UserError, match="declares id 5, which opens every document"):
        with_special_tokens(UL2R(tokens=TOKENS), vocab_size=4352, **WHERE | {"eod": 5})
    assert with_special_tokens(UL2R(tokens=TOKENS), vocab_size=4352, **WHERE).tokens == TOKENS
