"""Whether prompts and their answers fit the sequences that a model was trained on.

What is measured on longer prompts would say little about the model, so they are refused. A text may go on: rotary
positions have no end, but how good it is beyond the trained length was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pathways_lite.errors import UserError, counted

DEFAULT_TOKENS = 256
_LEAST_TOKENS = 16  # a default below this would hardly be a text


def require_room(lengths: Mapping[str, int], context: int) -> None:
    """Raise UserError where a prompt, by the problem's id, has more than the `context` tokens of the training."""
    longest = max(lengths, key=lambda name: lengths[name])
    if lengths[longest] > context:
        raise UserError(
            f"the prompt of problem {longest!r} has {counted(lengths[longest], 'token')}, and the model was trained on "
            f"sequences of {context}; leave such problems out, or use a model with a longer context"
        )


def default_tokens(lengths: Sequence[int], context: int) -> int:
    """Return how many tokens are written unless a number is given: what fits after the longest prompt, at most 256."""
    room = context - max(lengths) + 1  # the last token is written, and not read
    return min(DEFAULT_TOKENS, room) if room >= _LEAST_TOKENS else DEFAULT_TOKENS


def length_warning(lengths: Sequence[int], max_tokens: int, context: int) -> str | None:
    """Return a warning where a prompt with `max_tokens` after it is longer than the trained `context`; else None."""
    longest = max(lengths)
    room = context - longest + 1
    if max_tokens <= room:
        return None
    prompt = "the prompt" if len(lengths) == 1 else "the longest prompt"
    instead = f"use --max-tokens {room} or fewer" if room > 0 else "use a shorter prompt"
    return (
        f"{prompt} has {counted(longest, 'token')} and up to {max_tokens:,} follow, but the model was trained on "
        f"sequences of {context:,}: it goes on beyond them, at a quality that is not known; {instead}"
    )
