"""Automata end and restrict texts as a search in the bytes says."""

import random

import numpy as np
import pytest

from pathways_lite.data.token_bytes import token_bytes
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.errors import UserError
from pathways_lite.sampling.automaton import FREE, Automaton, combine, first_stop, grammar, stop_strings, trie

VOCABULARY = [
    b"",
    b"a",
    b"b",
    b"ab",
    b"ba",
    b"abc",
    b"c",
    b"\n",
    b"b\nQ",
    b"Q:",
    b"aQ:b",
    "é".encode()[:1],
    "é".encode()[1:],
]


def run(automaton: Automaton, tokens: list[int], state: int = 0) -> int | None:
    """Return the number of tokens after which the automaton ends; None: not at all."""
    for count, token in enumerate(tokens, 1):
        state = int(automaton.next[state, token])
        if automaton.is_final[state]:
            return count
    return None


@pytest.mark.parametrize(
    "stops", [["Q:"], ["\nQ:", "c"], ["abab", "bab"], ["é"], ["a"], ["aba", "b\nQ:", "cc"]], ids=str
)
def test_a_stop_string_is_found_wherever_tokens_are_cut(stops: list[str]):
    automaton, rng = stop_strings(stops, VOCABULARY), random.Random(0)
    ended = 0
    for _ in range(300):
        tokens = [rng.randrange(len(VOCABULARY)) for _ in range(8)]
        text, expected = b"", None
        for count, token in enumerate(tokens, 1):
            text += VOCABULARY[token]
            if expected is None and any(stop.encode() in text for stop in stops):
                expected = count
        assert run(automaton, tokens) == expected
        ended += expected is not None
    assert ended > 10


@pytest.mark.parametrize(
    ("stop", "tokens", "count"),
    [
        ("Q", [b"a", b"aQ:b", b"c"], 2),  # inside a token
        ("b\nQ:a", [b"ab", b"\n", b"Q:", b"abc", b"c"], 4),  # over four, of which it ends inside the last
        ("a\nc", [b"ba", b"\n", b"c", b"a"], 3),  # over three
        ("a", [b"abc", b"c"], 1),  # at the beginning
    ],
)
def test_a_stop_string_ends_inside_tokens_across_them_and_at_the_beginning(stop: str, tokens: list[bytes], count: int):
    automaton = stop_strings([stop], VOCABULARY)
    assert run(automaton, [VOCABULARY.index(token) for token in tokens]) == count
    text = b"".join(tokens).decode()
    assert first_stop(text, [stop]) == text.index(stop)


def test_a_text_is_cut_at_the_stop_string_that_ends_first():
    assert first_stop("one\nQ: two", ["\nQ:", "two"]) == 3
    assert first_stop("abcd", ["bcd", "c"]) == 2
    assert first_stop("abcd", ["bc", "c"]) == 1  # both end at once: the longer one
    assert first_stop("abcd", ["x"]) is None


def test_an_empty_stop_string_is_refused_and_none_is_free():
    with pytest.raises(UserError, match="a stop string is empty"):
        stop_strings(["a", ""], VOCABULARY)
    assert stop_strings([], VOCABULARY) is FREE


def test_a_trie_allows_its_words_and_then_an_end():
    automaton = trie([[1, 2], [1, 3, 4], [1]], 6, ends=[0])
    assert automaton.allowed is not None

    def allowed(tokens: list[int]) -> set[int]:
        state = 0
        for token in tokens:
            assert automaton.allowed[state, token]
            state = int(automaton.next[state, token])
        return set(np.flatnonzero(automaton.allowed[state]).tolist())

    assert allowed([]) == {1}
    assert allowed([1]) == {0, 2, 3}
    assert allowed([1, 3]) == {4}
    assert allowed([1, 2]) == {0}
    assert run(automaton, [1, 3, 4, 0]) == 4
    with pytest.raises(ValueError, match="words"):
        trie([[1], []], 6, ends=[0])


def test_a_grammar_allows_its_transitions():
    balanced = grammar({(0, 1): 1, (1, 1): 2, (1, 2): 3, (2, 2): 1}, finals=[3], vocab_size=4)
    assert run(balanced, [1, 1, 2, 2]) == 4
    np.testing.assert_array_equal(balanced.allowed, [[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_automata_in_one_table_do_what_they_did():
    automata = [FREE, stop_strings(["ab"], VOCABULARY), trie([[2, 3]], 5, ends=[0])]
    table, first = combine(automata, vocab_size=20)
    assert table.allowed is not None
    np.testing.assert_array_equal(table.allowed[first].sum(axis=1), [20, 20, 1])
    together = Automaton(table.next, table.is_final)
    assert run(together, [1, 2, 19], first[0]) is None
    assert run(together, [1, 2], first[1]) == 2
    assert run(together, [1, 19, 2, 3], first[1]) == 4  # an id beyond the vocabulary has no text that goes on
    assert run(together, [2, 3, 0], first[2]) == 3


def test_bytes_of_tokens_make_the_text():
    tokenizer = ByteTokenizer()
    known, text = token_bytes(tokenizer), "naïve\n"
    assert b"".join(known[i] for i in tokenizer.encode(text)) == text.encode()
    assert known[tokenizer.eod] == b""
