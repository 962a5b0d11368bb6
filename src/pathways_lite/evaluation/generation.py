"""Text generation: sample a continuation, or fill the gaps of a text, one token after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.objectives.prompts import Prompt, PromptFormat, left_to_right
from pathways_lite.recipe import Mode, Model

# Prompts and buffers are padded to multiples of this, so that prompts of similar length share one compilation.
_PAD_MULTIPLE = 64
MASK = "<mask>"
"""What stands for a gap in a text that is to be filled."""


class Tokenizer(Protocol):
    """The part of a tokenizer that generation needs."""

    @property
    def eod(self) -> int: ...

    def encode(self, text: str, /) -> list[int]: ...

    def decode(self, tokens: list[int], /) -> str: ...


@dataclass(frozen=True)
class Sampling:
    """The rule by which a token is sampled from logits.

    temperature: 0 takes the likeliest token (greedy); otherwise logits are divided by it.
    top_k: sample only among the k likeliest tokens.
    top_p: sample only among the smallest set of likeliest tokens whose probabilities add up to p or more (nucleus
        sampling, Holtzman et al., arXiv 1904.09751), after temperature and top_k.

    Raises UserError for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature} must be at least 0 (0 = always the likeliest token)")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")


def sample(logits: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """Sample one token per row: logits [..., V] float32 to tokens [...] int32."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    # Sampling ranks rather than tokens keeps exactly k of them where logits are equal.
    n = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    logits, tokens = jax.lax.top_k(logits, n)
    if sampling.top_p is not None:
        probabilities = jax.nn.softmax(logits)
        likelier_mass = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where((likelier_mass < sampling.top_p) | (jnp.arange(n) == 0), logits, -jnp.inf)
    rank = jax.random.categorical(key, logits)
    return jnp.take_along_axis(tokens, rank[..., None], axis=-1)[..., 0].astype(jnp.int32)


def generate(
    config: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    key: jax.Array,
    prompt_format: PromptFormat | None = None,
    mode: Mode | None = None,
    frame: DocumentFrame | None = None,
    opener: Sequence[int] | None = None,
    ends: Sequence[int] = (),
) -> str:
    """Continue `prompt`, which begins a document, by up to `max_tokens` tokens, or until the document's end.

    Args:
      temperature, top_k, top_p: see `Sampling`.
      key: the same key gives the same text.
      prompt_format, mode: how the model is asked to continue; None: as a causal model.
      frame: the tokens around documents; None: those of `prompt_format`, or else the tokenizer's EOD.
      opener: ids before the prompt, instead of EOD; without any, and without a prompt, EOD all the same.
      ends: further ids of which each ends the text (see `TrainedModel.prompt_tokens`).

    Returns:
      The continuation, without the prompt.
    """
    text = tokenizer.encode(prompt)
    if frame is None:
        frame = DocumentFrame(tokenizer.eod) if prompt_format is None else prompt_format.special.frame
    ask = left_to_right(text, frame) if prompt_format is None else prompt_format.continuation(text, mode)
    if opener is not None and mode is None and (opened := [*opener, *text]):
        ask = ask._replace(tokens=opened, prefix_length=len(opened) if ask.prefix_length else 0)
    sampling = Sampling(temperature, top_k, top_p)
    answer = complete(config, params, ask, sampling, max_tokens=max_tokens, frame=frame, key=key, ends=ends)
    answer = answer if prompt_format is None else prompt_format.text(answer)
    # Decoded together: a token alone may lack the space before it, or the first bytes of its character.
    whole, beginning = tokenizer.decode(text + answer), tokenizer.decode(text)
    return whole.removeprefix(beginning) if whole.startswith(beginning) else tokenizer.decode(answer)


def infill_text(
    config: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    text: str,
    sampling: Sampling,
    *,
    mode: Mode | None = None,
    max_tokens: int,
    key: jax.Array,
) -> str:
    """Fill every `<mask>` in `text`.

    Raises:
      UserError: there is no mask, or there are more than the model can be asked to fill.
    """
    texts = [tokenizer.encode(stretch) for stretch in text.split(MASK)]
    if len(texts) == 1:
        raise UserError(f"there is no gap to fill: write {MASK} where text is missing")
    prompt, frame = prompt_format.infill(texts, mode), prompt_format.special.frame
    answer = complete(config, params, prompt, sampling, max_tokens=max_tokens, frame=frame, key=key)
    filled = texts[0]
    for gap, following in zip(prompt_format.parse_gaps(answer, len(texts) - 1), texts[1:], strict=True):
        filled = filled + gap + following
    return tokenizer.decode(filled)


def complete(
    config: Model,
    params: Any,
    prompt: Prompt,
    sampling: Sampling,
    *,
    max_tokens: int,
    frame: DocumentFrame,
    key: jax.Array,
    ends: Sequence[int] = (),
) -> list[int]:
    """Generate up to `max_tokens` tokens; stop before one of `frame`, the answer's end token or one of `ends`."""
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} must be at least 1")
    prefill, buffer = _round_up(len(prompt.tokens)), _round_up(max_tokens)
    padded = np.zeros(prefill, np.int32)
    padded[: len(prompt.tokens)] = prompt.tokens
    lengths = jnp.array([len(prompt.tokens), prompt.prefix_length], jnp.int32)
    all_ends = jnp.array(sorted({*frame.ids, prompt.end, *ends}), jnp.int32)
    tokens, count = _complete(config, sampling, buffer, params, padded, lengths, max_tokens, all_ends, key)
    return [int(token) for token in np.asarray(tokens)[: int(count)]]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _complete(
    config: Model,
    sampling: Sampling,
    buffer: int,
    params: Any,
    prompt: jax.Array,
    lengths: jax.Array,
    max_tokens: jax.Array,
    ends: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Sample up to `max_tokens` <= `buffer` tokens after `prompt` [P], which is padded at its end.

    Args:
      lengths: the number of the prompt's tokens, and the number of those that see each other.
      ends: tokens [E], any of which ends the text.

    Returns:
      The tokens [buffer] and the number of valid ones, without the end token.
    """
    cache = models.init_cache(config, 1, prompt.shape[0] + buffer)
    n_prompt, prefix_length = lengths
    # The padding's keys and values are at positions that a later token overwrites before any query sees them.
    _, cache = models.decode(config, params, cache, prompt[None], 0, prefix_length)

    def is_unfinished(carry: Any) -> jax.Array:
        count, last, *_ = carry
        return (count < max_tokens) & ((count == 0) | jnp.all(last != ends))

    def step(carry: Any) -> Any:
        count, last, tokens, cache = carry
        logits, cache = models.decode(config, params, cache, last[None, None], n_prompt - 1 + count)
        token = sample(logits[0, -1], jax.random.fold_in(key, count), sampling)
        return count + 1, token, tokens.at[count].set(token), cache

    # The last token of the prompt is read once more: it gives the logits of the first new one.
    start = (jnp.int32(0), prompt[n_prompt - 1], jnp.zeros(buffer, jnp.int32), cache)
    count, last, tokens, _ = jax.lax.while_loop(is_unfinished, step, start)
    return tokens, count - ((count > 0) & jnp.any(last == ends))


def _round_up(n: int) -> int:
    return -(-n // _PAD_MULTIPLE) * _PAD_MULTIPLE
