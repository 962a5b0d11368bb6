"""The family `facts`: invented people, told of in few or many documents, and questions of one or two hops."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from pathways_lite.errors import UserError, counted
from pathways_lite.tasks.answers import AnyOfNames
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Example, Family, Request

MOST_TOLD = 1000
_DOCUMENTS_PER_COUNT = 60  # a world is told in at least so many documents per time that its best known person is told
_QUESTIONS = 0.2  # share of training texts that are questions
_NAMESAKES = 0.2  # share of couples that are called almost like another one

_ATTRIBUTES = {
    "birthplace": ("was born in {}", "Where was {} born?"),
    "year": ("was born in the year {}", "In which year was {} born?"),
    "profession": ("worked as {}", "What was the profession of {}?"),
    "employer": ("was employed by {}", "Who employed {}?"),
}
_TWO_HOPS = {
    "birthplace": "Where was the spouse of {} born?",
    "year": "In which year was the spouse of {} born?",
    "profession": "What was the profession of the spouse of {}?",
    "employer": "Who employed the spouse of {}?",
}
_PROFESSIONS = (
    "baker", "botanist", "carpenter", "chemist", "clockmaker", "dentist", "engineer", "farmer", "geologist", "glazier",
    "judge", "librarian", "locksmith", "mason", "miller", "nurse", "painter", "pilot", "printer", "sailor", "surveyor",
    "tailor", "teacher", "weaver",
)  # fmt: skip
_SYLLABLES = (
    "ba", "bel", "bor", "da", "den", "dor", "el", "fa", "fen", "ga", "gol", "har", "il", "ja", "ka", "kel", "lan", "lo",
    "ma", "mir", "mon", "na", "nel", "or", "pa", "pel", "ra", "ren", "ro", "sa", "sel", "tan", "tor", "u", "va", "vin",
    "wal", "yor", "za", "zen",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """An invented person, whose life is told in `told` documents."""

    name: str
    attributes: dict[str, str]
    told: int

    @property
    def short_name(self) -> str:
        """The name with a letter in place of the middle name."""
        first, middle, last = self.name.split()
        return f"{first} {middle[0]}. {last}"


@dataclass(frozen=True)
class World:
    """Couples, so that everybody has a spouse; the group of a question is the couple that it is about."""

    couples: tuple[tuple[Person, Person], ...]
    seed: int

    @cached_property
    def _bearers(self) -> Counter[str]:
        """How many people have each short name."""
        return Counter(person.short_name for couple in self.couples for person in couple)

    def examples(self) -> None:
        return None

    def example(self, draws: Draws) -> Example:
        """Draw a question about a person: the spouse, an attribute (one hop), or an attribute of the spouse (two hops).

        A question of two hops counts as told as often as the one of its two facts that is told more rarely.
        """
        couple = draws.choice(self.couples)
        person, spouse = draws.shuffled(couple)
        kind = draws.choice(("spouse", "one", "two"))
        attribute = draws.choice(tuple(_ATTRIBUTES))
        told = person.told
        if kind == "spouse":
            question, names, hops = f"Who was the spouse of {person.name}?", self._names(spouse), 1
        elif kind == "one":
            question, hops = _ATTRIBUTES[attribute][1].format(person.name), 1
            names = _answers(attribute, person.attributes[attribute])
        else:
            question, hops = _TWO_HOPS[attribute].format(person.name), 2
            names, told = _answers(attribute, spouse.attributes[attribute]), min(person.told, spouse.told)
        return Example(
            prompt=f"Q: {question}\nA:",
            solution=f" {names[0]}\n",
            verifier=AnyOfNames(names=names),
            group=" and ".join(sorted(each.name for each in couple)),
            difficulty=hops,
            task=counted(hops, "hop"),
            extra={"told": told},
            answer_kind=kind if kind == "spouse" else attribute,
        )

    def _names(self, person: Person) -> tuple[str, ...]:
        is_unique = self._bearers[person.short_name] == 1
        return (person.name, person.short_name) if is_unique else (person.name,)

    def text(self, example: Example, draws: Draws) -> str:
        """Return the question with its answer."""
        return example.prompt + example.solution

    def statements(self) -> list[str]:
        """Return every life as often as it is told, the facts in another order each time."""
        texts = []
        for number, couple in enumerate(self.couples):
            draws = Draws("tasks.facts.texts", self.seed, number)
            for person, spouse in (couple, couple[::-1]):
                facts = [form.format(_told(name, person.attributes[name])) for name, (form, _) in _ATTRIBUTES.items()]
                facts.append(f"was married to {spouse.name}")
                for _ in range(person.told):
                    texts.append(" ".join(f"{person.name} {fact}." for fact in draws.shuffled(facts)) + "\n")
        return texts


def open_world(request: Request) -> World:
    """Return a world whose lives fill the documents that are no questions. Raises UserError if there are too few."""
    room = request.documents - round(request.documents * _QUESTIONS)
    if room < 40:
        raise UserError(
            f"--documents {request.documents}: the facts that are asked are told in documents; give at least 50"
        )
    draws = Draws("tasks.facts.world", request.seed)
    counts = _zipf_counts(room, draws)
    names: set[str] = set()
    places = [_word(draws, 2) for _ in range(max(20, len(counts) // 5))]
    couples: list[tuple[Person, Person]] = []
    for first, second in zip(counts[::2], counts[1::2], strict=True):
        surname = _word(draws, 3)
        namesakes = draws.choice(couples) if couples and draws.chance(_NAMESAKES) else None
        persons = []
        for place, told in enumerate((first, second)):
            given = _word(draws, 2)
            if namesakes:  # the names of another couple but for the middle ones
                given, _, surname = namesakes[place].name.split()
            name = f"{given} {_word(draws, 2)} {surname}"
            while name in names:
                name = f"{given} {_word(draws, 2)} {surname}"
            names.add(name)
            attributes = {
                "birthplace": draws.choice(places),
                "year": str(draws.between(1600, 1999)),
                "profession": draws.choice(_PROFESSIONS),
                "employer": f"{draws.choice(places)} {draws.choice(('Mills', 'Works', 'College', 'Lines'))}",
            }
            persons.append(Person(name, attributes, told))
        couples.append((persons[0], persons[1]))
    return World(tuple(couples), request.seed)


def _zipf_counts(room: int, draws: Draws) -> list[int]:
    """Return an even number of counts with sum `room`, drawn with P(n) in proportion to 1/n for n up to 1000.

    In a small world the largest count is smaller. The last counts fill what is left.
    """
    top = max(1, min(MOST_TOLD, room // _DOCUMENTS_PER_COUNT))
    cumulative = list(accumulate(1 / n for n in range(1, top + 1)))
    counts: list[int] = []
    left = room
    while left > 0:
        u = (draws.word() >> 11) * 2.0**-53 * cumulative[-1]
        counts.append(min(left, 1 + min(top - 1, bisect_left(cumulative, u))))
        left -= counts[-1]
    if len(counts) % 2:  # nobody is without a spouse
        place = max(range(len(counts)), key=counts.__getitem__)
        half = counts[place] // 2
        if half:
            counts[place] -= half
            counts.append(half)
        else:
            counts.pop()
    return counts


def _word(draws: Draws, syllables: int) -> str:
    return "".join(draws.choice(_SYLLABLES) for _ in range(syllables)).capitalize()


def _told(attribute: str, value: str) -> str:
    """Return the value as a sentence has it."""
    return value if attribute != "profession" else f"{'an' if value[0] in 'aeiou' else 'a'} {value}"


def _answers(attribute: str, value: str) -> tuple[str, ...]:
    """Return the names of an answer; a profession may have its article."""
    return (value, _told(attribute, value)) if attribute == "profession" else (value,)


FACTS = Family("facts", "lives of invented people, told 1 to 1000 times; questions of one or two hops", 0.5, open_world)
