"""The families `cloze` and `continuation`, made of documents of yours: which word, and which words, come next.

`cloze` asks for a word that has occurred before in its passage, as LAMBADA does in most of its passages (Paperno et al.
2016, arXiv 1606.06031); `continuation` shows the next words of a document beside as many from other documents. A
document is for training or for test as a whole, in both families alike.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.errors import UserError, counted
from pathways_lite.tasks.answers import ExactText, FirstWord
from pathways_lite.tasks.choices import WRONG
from pathways_lite.tasks.draws import Draws, is_test_group
from pathways_lite.tasks.family import Example, Family, Request, Source
from pathways_lite.tasks.gsm8k import json_lines

SPLIT = "own_text"
TEST_SHARE = 0.1
WORDS = 8  # of a continuation
_LONGEST, _SHORTEST = 300, 60  # characters of a passage before what is asked for
_STRETCH = 1500  # characters of a test document, for each of which there is a problem
_FREQUENT = 100  # most frequent words of all documents: grammar gives them away, so they are not asked for
_WORD = re.compile(r"(?<=\S )[^\W\d_]{3,}(?![\w'’-])")
_NEXT_WORDS = re.compile(rf"(?<=\S )[^\W_]\S*(?: \S+){{{WORDS - 1}}}(?!\S)")  # of one line
_MOST_MISSES = 100  # draws of a document in vain, after which a problem has no distractors


@dataclass(frozen=True)
class _Document:
    text: str
    group: str

    @functools.cached_property
    def is_test(self) -> bool:
        return is_test_group(SPLIT, self.group, TEST_SHARE)

    @property
    def stretches(self) -> range:
        """Where the stretches begin of which a problem is made each; of a training document it is the first alone."""
        return range(0, max(len(self.text), 1) if self.is_test else 1, _STRETCH)

    def places(self, form: re.Pattern[str], stretch: int) -> Iterator[re.Match[str]]:
        """Yield where a stretch has what a pattern describes, with a passage before it."""
        for match in form.finditer(self.text, max(stretch, _SHORTEST)):
            if match.start() >= stretch + _STRETCH:
                return
            if len(self.passage(match.start())) >= _SHORTEST:
                yield match

    def passage(self, end: int) -> str:
        """Return the whole words of the `_LONGEST` characters before `end`."""
        begin = max(end - _LONGEST, 0)
        before = self.text[begin:end]
        return (before.partition(" ")[2] if begin else before).strip()


@dataclass(frozen=True)
class _OwnText:
    """The problems of documents. `ask` makes one of a stretch of a document, or None."""

    documents: Sequence[_Document]
    ask: Callable[[_OwnText, _Document, int], Example | None]
    seed: int

    @functools.cached_property
    def problems(self) -> list[Example]:
        """All problems; of equal prompts the first, so that its document alone counts as asked about."""
        found: dict[str, Example] = {}
        for document in self.documents:
            for stretch in document.stretches:
                if (example := self.ask(self, document, stretch)) is not None:
                    found.setdefault(example.prompt, example)
        return list(found.values())

    @functools.cached_property
    def frequent(self) -> frozenset[str]:
        counts = Counter(word for document in self.documents for word in _WORD.findall(document.text))
        return frozenset(word for word, _ in counts.most_common(_FREQUENT))

    @functools.cached_property
    def of_split(self) -> dict[bool, list[_Document]]:
        """The documents for training (False) and for test (True)."""
        return {is_test: [each for each in self.documents if each.is_test == is_test] for is_test in (False, True)}

    def draws(self, purpose: str, document: _Document, stretch: int) -> Draws:
        """Return the draws of one problem, which do not depend on other documents."""
        key = hashlib.blake2b(f"{document.group} {stretch}".encode(), digest_size=8).digest()
        return Draws(f"tasks.{SPLIT}/{purpose}", self.seed, int.from_bytes(key, "little"))

    # ---- as a source of examples ----

    def examples(self) -> Sequence[Example]:
        return self.problems

    def example(self, draws: Draws) -> Example:
        return draws.choice(self.problems)

    def text(self, example: Example, draws: Draws) -> str:
        return self._texts[example.group]

    def statements(self) -> list[str]:
        asked = {example.group for example in self.problems}
        return [document.text for document in self.of_split[False] if document.group not in asked]

    @functools.cached_property
    def _texts(self) -> dict[str, str]:
        return {document.group: document.text for document in self.documents}


def _ask_word(source: _OwnText, document: _Document, stretch: int) -> Example | None:
    """Ask for a word of a stretch that its passage has before; None where there is none."""
    found = []
    for match in document.places(_WORD, stretch):
        passage = document.passage(match.start())
        if match[0] not in source.frequent and match[0] in _WORD.findall(f" {passage}"):
            found.append((match[0], passage))
    if not found:
        return None
    word, passage = source.draws("cloze", document, stretch).choice(found)
    since = re.split(rf"\b{word}\b", passage)[-1]
    return Example(
        prompt=passage, solution=f" {word}", verifier=FirstWord(answer=word), group=document.group,
        difficulty=len(re.findall(r"\w+", since)) + 1, stop=(),
    )  # fmt: skip


def _ask_continuation(source: _OwnText, document: _Document, stretch: int) -> Example | None:
    """Ask which words follow a passage; None where no line of the stretch, or of other documents, has so many."""
    places = list(document.places(_NEXT_WORDS, stretch))
    if not places:
        return None
    draws = source.draws("continuation", document, stretch)
    place = draws.choice(places)
    wrong = _draw_distractors(source, document, place[0], draws)
    if len(wrong) < WRONG:
        return None
    passage = document.passage(place.start())
    return Example(
        prompt=passage, solution=f" {place[0]}", verifier=ExactText(answer=place[0]), group=document.group,
        difficulty=len(passage.split()), extra={"choices": draws.shuffled([*wrong, place[0]]), "answer": place[0]},
    )  # fmt: skip


def _draw_distractors(source: _OwnText, document: _Document, right: str, draws: Draws) -> list[str]:
    """Draw as many words from other documents of the split, so that no choice was trained on and another not."""
    found: list[str] = []
    documents = source.of_split[document.is_test]
    for _ in range(_MOST_MISSES):
        other = draws.choice(documents)
        places = list(other.places(_NEXT_WORDS, draws.choice(other.stretches)))
        if other.group != document.group and places and (words := draws.choice(places)[0]) not in (right, *found):
            found.append(words)
        if len(found) == WRONG:
            break
    return found


def _family(name: str, summary: str, ask: Callable[[_OwnText, _Document, int], Example | None], needs: str) -> Family:
    def open_texts(request: Request) -> Source:
        if request.source is None:
            raise UserError(f"{name} is made of documents of yours; name a file of them: --source texts.jsonl")
        source = _OwnText(_read_documents(request.source), ask, request.seed)
        tests = source.of_split[True]
        asked = {example.group for example in source.problems}
        if not any(document.group in asked for document in tests):
            raise UserError(
                f"{request.source}: no problem can be made of its {counted(len(source.documents), 'document')}, of "
                f"which {len(tests)} are for test ({TEST_SHARE:.0%} are, by a hash of their text); {needs}"
            )
        return source

    return Family(name, summary, TEST_SHARE, open_texts, needs_source=True, split=SPLIT)


def _read_documents(path: Path) -> list[_Document]:
    """Read the `text` of each line of a file, equal ones once. Raises UserError for a line without one."""
    documents: dict[str, _Document] = {}
    for where, record in json_lines(path):
        text = record.get("text")
        if not isinstance(text, str):
            fields = ", ".join(record) or "nothing"
            raise UserError(f'{where}: a document is expected, {{"text": "..."}}, but the line has {fields}')
        content = text.encode(errors="replace")  # surrogates are in no text
        group = hashlib.sha256(content).hexdigest()[:16]
        documents[group] = _Document(content.decode(), group)
    return list(documents.values())


CLOZE = _family(
    "cloze",
    "the next word of your documents, which their passage has before (--source)",
    _ask_word,
    f"give more documents, in which words of three letters or more come again within {_LONGEST} characters",
)
CONTINUATION = _family(
    "continuation",
    f"the next {WORDS} words of your documents, beside {WORDS} of each of {WRONG} others (--source)",
    _ask_continuation,
    f"give more documents, at least {WRONG + 1} for test, whose lines have {WORDS} words after a passage",
)
