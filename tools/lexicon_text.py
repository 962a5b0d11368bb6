#!/usr/bin/env python3
"""Write text whose gaps have a known answer: documents of words that are drawn from a small lexicon of random letters.

    python tools/lexicon_text.py lexicon.jsonl
    python tools/lexicon_text.py lexicon.jsonl --words 64 --letters 6 --per-document 30 --documents 170000 --seed 0

All words are equally likely and have the same length, as have all documents, so nothing but the words is uncertain.
Who knows the lexicon and where a gap is cannot predict better than the losses that the program prints as one JSON line
(nats per byte, exact expectations):

    left_to_right                     per token of bytes, the end of the document included: from left to right
    gaps.K.infilling, .left_to_right  of a gap of K letters at a uniformly drawn place, given the text around it and the
                                      gap's length, and the same letters from left to right

Training text and lexicon depend on the seed alone. A study of infilling on it: configs/ablations/ul2r_doses.py.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
GAPS = (2, 3, 8)  # letters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="JSON lines to write, for `pathways-lite data build`")
    parser.add_argument("--words", type=int, default=64, help="of the lexicon")
    parser.add_argument("--letters", type=int, default=6, help="of a word")
    parser.add_argument("--alphabet", type=int, default=26, help="different letters, at most 26")
    parser.add_argument("--per-document", type=int, default=30, help="words of a document")
    parser.add_argument("--documents", type=int, default=170_000, help="default: 35.5 MB of text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", default="lexicon")
    arguments = parser.parse_args()
    lexicon = make_lexicon(arguments.words, arguments.letters, arguments.alphabet, arguments.seed)
    with arguments.path.open("w") as file:
        for number, text in enumerate(
            make_documents(lexicon, arguments.per_document, arguments.documents, arguments.seed)
        ):
            file.write(json.dumps({"text": text, "domain": arguments.domain, "id": str(number)}) + "\n")
    losses = {
        "left_to_right": left_to_right_loss(lexicon, arguments.per_document),
        "gaps": {length: gap_losses(lexicon, arguments.per_document, length) for length in GAPS},
    }
    print(
        json.dumps({**{k: v for k, v in vars(arguments).items() if k != "path"}, "path": str(arguments.path), **losses})
    )


def make_lexicon(words: int, letters: int, alphabet: int = 26, seed: int = 0) -> list[str]:
    """Draw `words` different words of `letters` letters, each letter uniformly among the first `alphabet`."""
    if words > alphabet**letters:
        raise SystemExit(f"there are {alphabet**letters} words of {letters} letters, fewer than --words {words}")
    rng, lexicon = random.Random(seed), set[str]()
    while len(lexicon) < words:
        lexicon.add("".join(rng.choice(LETTERS[:alphabet]) for _ in range(letters)))
    return sorted(lexicon)


def make_documents(lexicon: Sequence[str], per_document: int, count: int, seed: int = 0) -> Iterator[str]:
    """Yield documents of uniformly drawn words, separated by spaces."""
    rng = random.Random(seed + 1)
    for _ in range(count):
        yield " ".join(rng.choices(lexicon, k=per_document))


# ---- what can be known ----


def left_to_right_loss(lexicon: Sequence[str], per_document: int) -> float:
    """Return the least expected nats per token: a word's are known when it is; spaces and the end are sure."""
    letters = len(lexicon[0])
    return per_document * math.log(len(lexicon)) / (per_document * (letters + 1))


def gap_losses(lexicon: Sequence[str], per_document: int, length: int) -> dict[str, float]:
    """Return the least expected nats per letter of a gap, averaged over all its places with text on both sides."""
    period = len(lexicon[0]) + 1  # a word and a space
    n_characters = per_document * period - 1
    if length > n_characters - 2:
        raise SystemExit(f"a gap of {length} leaves no text on both sides in documents of {n_characters} letters")
    total, total_left_to_right, places = 0.0, 0.0, range(1, n_characters - length)
    entropy = {(a, b): hidden_entropy(lexicon, a, b) for a in range(period) for b in range(a, period)}
    steps = [prefix_entropy(lexicon, i) for i in range(period - 1)]
    for start in places:
        for word in range(start // period, (start + length - 1) // period + 1):
            first = max(start - word * period, 0)
            stop = min(start + length - word * period, period - 1)
            if first < stop:
                total += entropy[first, stop]
                total_left_to_right += sum(steps[first:stop])
    n_letters = len(places) * length
    return {"infilling": total / n_letters, "left_to_right": total_left_to_right / n_letters}


def hidden_entropy(lexicon: Sequence[str], first: int, stop: int) -> float:
    """Return the entropy in nats of letters `first` to `stop` of a word given its others: H(word) - H(the others)."""
    return math.log(len(lexicon)) - _entropy([word[:first] + word[stop:] for word in lexicon])


def prefix_entropy(lexicon: Sequence[str], place: int) -> float:
    """Return the entropy in nats of the letter at `place` of a word given those before it."""
    return _entropy([word[: place + 1] for word in lexicon]) - _entropy([word[:place] for word in lexicon])


def _entropy(outcomes: Sequence[str]) -> float:
    """Return the entropy of equally likely outcomes, of which some are the same."""
    return -sum(n / len(outcomes) * math.log(n / len(outcomes)) for n in Counter(outcomes).values())


if __name__ == "__main__":
    main()
