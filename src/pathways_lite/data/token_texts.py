"""The text of single tokens, as the tokenizer cut it."""

from __future__ import annotations

from collections.abc import Sequence

from pathways_lite.data.tokenizers import Tokenizer

_CONTEXT = 8  # tokens before one whose text is found: it may depend on them, e.g. the space before a word
_LONGEST = 12  # tokens that may make up one character


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each token, so that all of them together are `tokenizer.decode(ids)`.

    Where several tokens make up one character, the last of them has it, and the others have none. EOD has no text.
    """
    ids = [int(i) for i in ids]
    texts: list[str] = []
    done = 0  # tokens whose text is known
    for stop in range(1, len(ids) + 1):
        first = max(0, done - _CONTEXT)
        before, after = tokenizer.decode(ids[first:done]), tokenizer.decode(ids[first:stop])
        is_part = after.endswith("\ufffd") and stop < len(ids) and stop - done < _LONGEST
        if is_part or not after.startswith(before):
            texts.append("")
            continue
        texts.append(after[len(before) :])
        done = stop
    if "".join(texts) == (whole := tokenizer.decode(ids)):
        return texts
    return _by_prefixes(tokenizer, ids, whole)


def _by_prefixes(tokenizer: Tokenizer, ids: list[int], whole: str) -> list[str]:
    """Find the texts by decoding all prefixes, for tokenizers whose text depends on what is far before."""
    texts, end = [], 0
    for stop in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:stop])
        known = len(text) if whole.startswith(text) else _common(text, whole)
        known = len(whole) if stop == len(ids) else max(end, known)
        texts.append(whole[end:known])
        end = known
    return texts


def _common(a: str, b: str) -> int:
    """Return the length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
