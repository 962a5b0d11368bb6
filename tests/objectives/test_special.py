"""Special tokens: where their ids come from, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.character_tokenizer import BOS, EOS, write_tokenizer
from helpers.denoising_examples import FRAME, TOKENS
from pathways_lite.data.reserved_tokens import require_extension, reserved_ids
from pathways_lite.data.tokenizer_files import load_tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.denoisers import (
    count_needed_sentinels,
    denoiser_specs,
    measure_examples,
    reserved_special_tokens,
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


# ---- where the vocabulary is full ----

RESERVED = [3, *range(10, 20), *range(100, 160)]


def test_reserved_tokens_serve_where_no_ids_are_left() -> None:
    """The first eight are the named ones; the sentinels are the longest run among the others, the last one first."""
    tokens = resolve_special_tokens(UL2R(), vocab_size=4096, reserved=lambda: RESERVED, **SETTING).tokens
    assert list(tokens.named_ids.values()) == [3, *range(10, 17)]
    assert (tokens.first_sentinel, tokens.sentinels) == (159, 60)
    assert reserved_special_tokens(RESERVED[:8]) is None
    with pytest.raises(UserError, match="needs 40 special tokens"):  # runs of 20 and 24 are too short
        resolve_special_tokens(UL2R(), vocab_size=4096, reserved=lambda: [*range(28), *range(50, 74)], **SETTING)
    frame = DocumentFrame(120)
    with pytest.raises(UserError, match="declares id 120, which opens every document"):
        resolve_special_tokens(UL2R(), vocab_size=4096, reserved=lambda: RESERVED, **SETTING | {"frame": frame})


def test_free_ids_come_before_reserved_ones() -> None:
    def unread() -> list[int]:
        raise AssertionError("the tokenizer was read")

    tokens = resolve_special_tokens(UL2R(), vocab_size=4352, reserved=unread, **SETTING).tokens
    assert tokens == resolve_special_tokens(UL2R(), vocab_size=4352, **SETTING).tokens
    some = resolve_special_tokens(UL2R(), vocab_size=4096 + 20, reserved=lambda: RESERVED, **SETTING).tokens
    assert some.first_sentinel == 159  # as 12 sentinels are too few


def test_those_of_the_model_before_are_kept() -> None:
    """Also in a larger vocabulary, whose last ids would otherwise be the sentinels."""
    kept = resolve_special_tokens(UL2R(), vocab_size=4352, **SETTING).tokens
    again = resolve_special_tokens(UL2R(), vocab_size=4500, kept=lambda: kept, **SETTING).tokens
    assert again == kept != resolve_special_tokens(UL2R(), vocab_size=4500, **SETTING).tokens
    with pytest.raises(UserError, match=r"needs 256 sentinels .* the model that the stage starts from has 248"):
        resolve_special_tokens(UL2R(), vocab_size=4500, kept=lambda: kept, **SETTING | {"seq_len": 2048})
    assert resolve_special_tokens(UL2R(tokens=TOKENS), vocab_size=4352, kept=lambda: kept, **SETTING).tokens == TOKENS


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(UserError) as error:
        resolve_special_tokens(UL2R(), vocab_size=4096, **SETTING)
    for advice in (
        "set model.vocab_size to at least 4136",
        "start=Grow(operator=VocabularyGrowth())",
        "pathways-lite grow CHECKPOINT OUT --operator vocabulary model.vocab_size=4136",
        "objective.tokens=SpecialTokens(...)",
    ):
        assert advice in str(error.value)


@pytest.mark.parametrize(
    ("name", "is_reserved"),
    [
        ("<|reserved_special_token_5|>", True),
        ("<unused7>", True),
        ("[unused12]", True),
        ("<extra_id_99>", True),
        ("<|extra_3|>", True),
        ("<|placeholder1|>", True),
        ("<|dummy_12|>", True),
        ("<\uff5cplace\u2581holder\u2581no\u25817\uff5c>", True),
        ("<|begin_of_text|>", False),
        ("<|im_start|>", False),
        ("<0x0A>", False),
        ("<mask>", False),
    ],
)
def test_reserved_tokens_are_known_by_their_names(name: str, is_reserved: bool, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, 20, (BOS, name, EOS)))
    assert reserved_ids(tokenizer) == ([18] if is_reserved else [])


def test_a_tokenizer_that_is_no_extension_is_refused(tmp_path: Path) -> None:
    old, longer, other = (
        load_tokenizer(write_tokenizer(tmp_path / str(number), 17 + len(special), special))
        for number, special in enumerate([(BOS, EOS), (BOS, EOS, "<new>"), (BOS, "<new>", EOS)])
    )
    require_extension(old, longer)
    with pytest.raises(UserError, match=r"token 18 is '<new>' in the new tokenizer and '<\|end\|>' in the model's"):
        require_extension(old, other)
    with pytest.raises(UserError, match="has 19 tokens, fewer than the 20 of the model's"):
        require_extension(longer, old)
