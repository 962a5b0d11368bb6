"""Continuing a text with a model, one token after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.objectives.prompts import Prompt, PromptFormat, left_to_right
from pathways_lite.recipe import Mode, Model

# Prompts and buffers are padded to multiples of this, so that prompts of similar length share one compilation.
_GRAIN = 64
MASK = "<mask>"


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def eod(self) -> int: ...

    def encode(self, text: str, /) -> list[int]: ...

    def decode(self, tokens: list[int], /) -> str: ...


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    temperature: 0 takes the likeliest token (greedy); otherwise logits are divided by it.
    top_k: choose among the k likeliest only.
    top_p: choose among the fewest likeliest tokens whose probabilities reach p together (nucleus sampling,
        Holtzman et al., arXiv 1904.09751), after temperature and top_k.

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
    """One token per row: logits [..., V] float32 to tokens [...] int32."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    # Sampling among ranks rather than tokens keeps exactly k of them where logits are equal.
    n = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    logits, tokens = jax.lax.top_k(logits, n)
    if sampling.top_p is not None:
        probabilities = jax.nn.softmax(logits)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where((likelier < sampling.top_p) | (jnp.arange(n) == 0), logits, -jnp.inf)
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
) -> str:
    """The continuation of `prompt`, without the prompt: up to `max_tokens` tokens, or until a document's end.

    The prompt begins a document. The same key gives the same text. See `Sampling` for the other arguments.
    `prompt_format`: how the model is asked to continue, in which `mode`; None: as a causal model.
    """
    text = tokenizer.encode(prompt)
    head = left_to_right(text, tokenizer.eod) if prompt_format is None else prompt_format.continuation(text, mode)
    sampling = Sampling(temperature, top_k, top_p)
    tail = complete(config, params, head, sampling, max_tokens=max_tokens, eod=tokenizer.eod, key=key)
    tail = tail if prompt_format is None else prompt_format.text(tail)
    # Decoded together: a token alone may lack the space or the other bytes of a character before it.
    whole, shown = tokenizer.decode(text + tail), tokenizer.decode(text)
    return whole.removeprefix(shown) if whole.startswith(shown) else tokenizer.decode(tail)


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
    """`text` with something for every `<mask>` in it. Raises UserError where there is none, or for too many."""
    parts = [tokenizer.encode(part) for part in text.split(MASK)]
    if len(parts) == 1:
        raise UserError(f"nothing is to be filled: write {MASK} where something is missing")
    prompt = prompt_format.infill(parts, mode)
    answer = complete(config, params, prompt, sampling, max_tokens=max_tokens, eod=tokenizer.eod, key=key)
    filled = parts[0]
    for gap, part in zip(prompt_format.parse_gaps(answer, len(parts) - 1), parts[1:], strict=True):
        filled = filled + gap + part
    return tokenizer.decode(filled)


def complete(
    config: Model, params: Any, prompt: Prompt, sampling: Sampling, *, max_tokens: int, eod: int, key: jax.Array
) -> list[int]:
    """The tokens after `prompt`, up to `max_tokens` of them, or before the first EOD or the answer's end."""
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} must be at least 1")
    prefill, room = _round_up(len(prompt.tokens)), _round_up(max_tokens)
    padded = np.zeros(prefill, np.int32)
    padded[: len(prompt.tokens)] = prompt.tokens
    lengths = jnp.array([len(prompt.tokens), prompt.prefix_length], jnp.int32)
    ends = jnp.array([eod, prompt.end], jnp.int32)
    tokens, count = _complete(config, sampling, room, params, padded, lengths, max_tokens, ends, key)
    return [int(token) for token in np.asarray(tokens)[: int(count)]]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _complete(
    config: Model,
    sampling: Sampling,
    room: int,
    params: Any,
    prompt: jax.Array,
    lengths: jax.Array,
    max_tokens: jax.Array,
    ends: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Sample up to `max_tokens` <= `room` tokens after the first of `prompt` [P], which is padded at its end.

    `lengths`: how many of the prompt's tokens count, and how many of these see each other. Returns the tokens [room]
    and how many of them count; the first of `ends` [E] ends the text and is not counted.
    """
    cache = models.init_cache(config, 1, prompt.shape[0] + room)
    n_prompt, together = lengths
    # The padding's keys and values lie at positions that a later token overwrites before any query sees them.
    _, cache = models.decode(config, params, cache, prompt[None], 0, together)

    def goes_on(carry: Any) -> jax.Array:
        count, last, *_ = carry
        return (count < max_tokens) & ((count == 0) | jnp.all(last != ends))

    def step(carry: Any) -> Any:
        count, last, tokens, cache = carry
        logits, cache = models.decode(config, params, cache, last[None, None], n_prompt - 1 + count)
        token = sample(logits[0, -1], jax.random.fold_in(key, count), sampling)
        return count + 1, token, tokens.at[count].set(token), cache

    # The last token of the prompt is read once more: it gives the logits of the first new one.
    start = (jnp.int32(0), prompt[n_prompt - 1], jnp.zeros(room, jnp.int32), cache)
    count, last, tokens, _ = jax.lax.while_loop(goes_on, step, start)
    return tokens, count - ((count > 0) & jnp.any(last == ends))


def _round_up(n: int) -> int:
    return -(-n // _GRAIN) * _GRAIN
