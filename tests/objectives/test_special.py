"""Special tokens: where their ids come from, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.denoising_examples import FRAME, TOKENS
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.denoisers import (
    count_needed_sentinels,
    denoiser_specs,
    measure_examples,
    resolve_special_tokens,
    size_params,
)
from pathways_lite.recipe import UL2, UL2R, Causal, CodeGen2, FillInTheMiddle, PrefixLM, SpanCorruption

SETTING = {"seq_len": 256, "text_ids": 4096, "frame": FRAME}


def test_unused_ids_are_taken_from_both_ends() -> None:
    tokens = resolve_special_tokens(UL2R(), vocab_size=4352, **SETTING).tokens
    assert list(tokens.named_ids.values()) == list(range(4096, 4104))
    assert (tokens.first_sentinel, tokens.sentinels) == (4351, 248)
    for objective in (UL2(), FillInTheMiddle(), CodeGen2()):  # every stage of a model has the same
        assert resolve_special_tokens(objective, vocab_size=4352, **SETTING | {"seq_len": 128}).tokens == tokens


def test_objectives_without_special_tokens_get_none() -> None:
    for objective in (Causal(), PrefixLM()):
        assert resolve_special_tokens(objective, vocab_size=4096, **SETTING) is objective
    assert resolve_special_tokens(PrefixLM(mode="s2s"), vocab_size=4200, **SETTING).tokens is not None


@pytest.mark.parametrize(("seq_len", "sentinels"), [(256, 32), (2048, 256)])
def test_too_few_ids_are_refused_with_the_number_needed(seq_len: int, sentinels: int) -> None:
    """X with rate 0.5 and spans of 3: of 2048 positions 1534 tokens in 256 spans (T5's 512 per 3 tokens of noise)."""
    assert count_needed_sentinels(UL2R(), seq_len) == sentinels
    needed = 8 + sentinels
    setting = SETTING | {"seq_len": seq_len}
    with pytest.raises(UserError, match=f"needs {needed} special tokens.*leaves 20; set model.vocab_size to at least"):
        resolve_special_tokens(UL2R(), vocab_size=4116, **setting)
    with pytest.raises(UserError, match=f"leaves {needed - 1}; .*at least {4096 + needed} "):
        resolve_special_tokens(UL2R(), vocab_size=4096 + needed - 1, **setting)
    assert resolve_special_tokens(UL2R(), vocab_size=4096 + needed, **setting).tokens.sentinels == sentinels


def test_declared_ids_are_checked() -> None:
    few = TOKENS.model_copy(update={"sentinels": 20})
    with pytest.raises(UserError, match=r"needs 32 sentinels for seq_len=256, but .* declares 20"):
        resolve_special_tokens(UL2R(tokens=few), vocab_size=4352, **SETTING)
    with pytest.raises(UserError, match="declares id 999, but the model has vocab_size=900"):
        resolve_special_tokens(UL2R(tokens=TOKENS), vocab_size=900, **SETTING)
    with pytest.raises(UserError, match="declares id 5, which opens every document"):
        resolve_special_tokens(UL2R(tokens=TOKENS), vocab_size=4352, **SETTING | {"frame": DocumentFrame(5)})
    assert resolve_special_tokens(UL2R(tokens=TOKENS), vocab_size=4352, **SETTING).tokens == TOKENS


@settings(max_examples=60)
@given(st.integers(8, 150), st.floats(0.0, 0.9), st.floats(0.05, 0.95), st.floats(1, 12), st.booleans())
def test_no_example_has_more_noise_spans_than_sentinels(
    seq_len: int, least: float, most: float, mean_span: float, codegen2: bool
) -> None:
    """Compare with all lengths and numbers of noise tokens. The highest rate does not give the most noise spans."""
    least = min(least, most) if codegen2 else most
    objective = CodeGen2(rate=1, least=least, most=most, mean_span=mean_span)
    if not codegen2:
        objective = SpanCorruption(rate=most, mean_span=mean_span)
    (spec,) = denoiser_specs(objective)
    n = np.arange(seq_len + 1)[:, None]
    rates = np.clip(np.arange(seq_len + 1) / np.maximum(n, 1), least, most)
    rates = np.concatenate([rates, np.full_like(rates[:, :1], least), np.full_like(rates[:, :1], most)], axis=1)
    _, spans, size = measure_examples(size_params([spec]), n, rates)
    assert count_needed_sentinels(objective, seq_len) == spans[size <= seq_len].max(initial=0)
