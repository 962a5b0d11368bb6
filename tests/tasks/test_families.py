"""Families: right answers verify and changed ones do not, splits are disjoint, bytes are the same everywhere."""

import itertools
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.tasks import FAMILIES, find_family, problems_digest, read_problems, verify
from pathways_lite.tasks.chain import write_chain
from pathways_lite.tasks.code import _group, _outputs
from pathways_lite.tasks.draws import Draws, is_test_group
from pathways_lite.tasks.facts import open_world
from pathways_lite.tasks.family import Example, Request
from pathways_lite.tasks.grammar import expression_value, missing_brackets
from pathways_lite.tasks.list_expressions import OPERATIONS
from pathways_lite.tasks.make import make
from pathways_lite.tasks.scramble import disturb

MADE = [name for name, family in FAMILIES.items() if not family.needs_source]
SEEDS = st.integers(0, 2**32)


def draw(name: str, seed: int) -> Example:
    return FAMILIES[name].open(Request(documents=200, seed=1)).example(Draws("test", seed))


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_right_answers_verify_and_mutated_ones_do_not(name: str, seed: int) -> None:
    example = draw(name, seed)
    judge = example.verifier.judge
    assert judge(example.solution).correct
    assert judge(example.solution + "Q: 1+1=\nA: 2\n").correct, "what follows the answer does not count"
    head, _, last = example.solution.rstrip().rpartition(" ")
    assert not judge(f"{example.solution.rstrip()}1\n").correct
    if example.task != "expression":  # 0*7 and 0*0 are both right
        assert not judge(f"{head} {last[:-1]}{'1' if last[-1] == '0' else '0'}\n").correct
    assert not judge(example.solution.replace(last, "")).correct
    assert not judge("").correct
    assert judge("").answer is None


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=60) | st.text("()[]{}<>0123456789+-*=,.#\n _abcnrtuxs", max_size=60), seed=st.integers(0, 20)
)
def test_verifiers_never_raise(name: str, text: str, seed: int) -> None:
    example = draw(name, seed)
    for answer in (text, f"return {text}", f"= {text}", f" {text}\n"):
        verdict = example.verifier.judge(answer)
        assert isinstance(verdict.correct, bool)
        assert verdict.correct == (verdict.reason == "")


@pytest.mark.parametrize("character", ["(", "-", "[", "9", "\0", "\ud800", "wait\n", "return \n", "####", "١", "²"])
def test_verifiers_never_raise_on_long_and_odd_texts(character: str) -> None:
    for name in MADE:
        for text in (character * 5000, f"return {character * 390}", f"= {character * 5000}"):
            assert not draw(name, 3).verifier.judge(text).correct


@pytest.mark.parametrize("name", MADE)
def test_no_group_straddles_whatever_the_seeds(name: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        make(FAMILIES[name], tmp_path / str(seed), documents=300, problems=20, seed=seed)
    problems = [read_problems(tmp_path / seed / "problems.jsonl") for seed in "01"]
    asked = {problem.group for each in problems for problem in each}
    for seed in "01":
        lines = (tmp_path / seed / "documents.jsonl").read_text().splitlines()
        assert len(lines) == 300
        groups = {json.loads(line)["group"] for line in lines}
        assert groups - {None}
        assert not asked & groups
    assert {problem.id for problem in problems[0]} != {problem.id for problem in problems[1]}


PINNED = {
    "sum": ("346f4d54ad55d7ad", "7e5d7f1ec3c1dd66"),
    "chain": ("1e699794fd898333", "d4f272bb5245b289"),
    "code": ("1439c90036b66da0", "7ee2fcbf236558a1"),
    "grammar": ("4b7b61908afcd71e", "9ba52b33f0977ed6"),
    "facts": ("24e2375acaefea31", "db89f2d6747d5870"),
    "arithmetic": ("90650557e60397ea", "3ff6ecccf78988da"),
    "scramble": ("f425f229eb0c4993", "146d49ffc747691e"),
}
"""First digits of SHA-256 of documents.jsonl and problems.jsonl."""


@pytest.mark.parametrize("name", MADE)
def test_bytes_are_pinned(name: str, tmp_path: Path) -> None:
    manifest = make(FAMILIES[name], tmp_path / "out", documents=100, problems=8, seed=7, shots=1)
    digests = tuple(manifest["files"][file]["sha256"][:16] for file in ("documents.jsonl", "problems.jsonl"))
    assert digests == PINNED[name]
    assert manifest["files"]["problems.jsonl"]["sha256"] == problems_digest(tmp_path / "out" / "problems.jsonl")


def test_fewer_problems_are_the_first_of_more_and_shots_keep_ids(tmp_path: Path) -> None:
    few, more = tmp_path / "few", tmp_path / "more"
    make(FAMILIES["sum"], few, documents=0, problems=5)
    make(FAMILIES["sum"], more, documents=0, problems=9, shots=2)
    short, long = read_problems(few / "problems.jsonl"), read_problems(more / "problems.jsonl")
    assert [problem.id for problem in short] == [problem.id for problem in long[:5]]
    for problem, with_shots in zip(short, long, strict=False):
        assert problem.prompt
        assert with_shots.prompt
        *shots, last = with_shots.prompt.split("\n\n")
        assert last == problem.prompt
        assert len(shots) == 2
        for shot in shots:
            a, b = shot.removeprefix("Q: ").partition("=")[0].replace("+", " +").replace("-", " -").split()
            assert int(a) + int(b) == int(shot.rpartition("A:")[2])
            low, high = sorted((int(a), abs(int(b))))
            assert not is_test_group("sum", f"{low}{b[0]}{high}", 0.1)


def test_a_tenth_of_chains_takes_a_wrong_step_back() -> None:
    texts = 2000
    mistaken = 0
    for seed in range(texts):
        draws = Draws("chain", seed)
        example = FAMILIES["chain"].open(Request(documents=1)).example(draws)
        text = write_chain(example, draws)
        verdict = example.verifier.judge(text.removeprefix(example.prompt))
        assert verdict.correct
        assert verdict.steps.count(True) == example.difficulty
        if "wait" in text:
            mistaken += 1
            assert verdict.steps.count(False) == 1
            without = example.verifier.judge(text.removeprefix(example.prompt).replace("wait\n", ""))
            assert not all(without.steps[verdict.steps.index(False) :])
    assert abs(mistaken / texts - 0.1) < 4 * (0.1 * 0.9 / texts) ** 0.5


def test_programs_that_compute_the_same_share_a_group() -> None:
    """All compositions of up to three operations, with two constants each, compared on 30 lists."""
    draws = Draws("probes", 0)
    probes = [tuple(draws.between(-20, 20) for _ in range(n)) for n in (*range(10), *[9] * 12)]
    probes += [(2, 4, 6, 8), (8, 6, 2), (4, 2), (2, 4), (3, 5), (5, 3), (3, 3, -3, 2, 2, 8, 3), (1, 2, 3, 4, 5, 6, 7)]
    groups = defaultdict(set)
    for length in (1, 2, 3):
        for names in itertools.permutations(OPERATIONS, length):
            if {"take", "drop"} <= set(names):
                continue
            for constants in itertools.product(*(OPERATIONS[name].constants or [None] for name in names)):
                chosen = list(zip(names, constants, strict=True))
                outputs = _outputs(chosen, probes)
                shorter = (chosen[:place] + chosen[place + 1 :] for place in range(length))
                is_minimal = all(_outputs(steps, probes) != outputs for steps in shorter)
                if is_minimal and sum(map(bool, outputs)) >= len(probes) / 3:
                    groups[tuple(outputs)].add(_group(names))
    assert len(groups) > 500
    assert all(len(each) == 1 for each in groups.values())


def test_lives_are_told_as_often_as_their_counts_say() -> None:
    world = open_world(Request(documents=5000, seed=2))
    statements = world.statements()
    people = [person for couple in world.couples for person in couple]
    assert len({person.name for person in people}) == len(people)
    assert 3990 <= sum(person.told for person in people) == len(statements) <= 4000
    counts = [sum(text.startswith(person.name) for text in statements) for person in people]
    assert counts == [person.told for person in people]
    assert min(counts) == 1
    assert max(counts) > 40
    first_and_last = [(person.name.split()[0], person.name.split()[2]) for person in people]
    assert len(set(first_and_last)) < len(people), "there are namesakes"


def test_known_answers_of_grammars_and_scrambles() -> None:
    values = {"2*(8+4)": 24, "1-2-3": -4, "1-(2-3)": 2, "2+3*4": 14, "((7))": 7, "9": 9}
    assert {text: expression_value(text) for text in values} == values
    assert all(expression_value(text) is None for text in ("", "12", "1+", "(1", "1)", "()", "1(2)", "-1", "1 +2", "²"))
    assert missing_brackets("([{<") == ">}])"
    assert missing_brackets("([])") == ""
    assert missing_brackets("(]") is None
    assert disturb("objects", "RW", Draws("", 0)) == "stcejbo"
    cycled = disturb("inevitably", "CL", Draws("", 0))
    assert cycled != "inevitably"
    assert cycled in "inevitably" * 2
    assert disturb("succession", "RI", Draws("", 0))[::2] == "succession"
    for task, kept in (("A1", 1), ("A2", 2)):
        word = disturb("corruption", task, Draws("", 5))
        assert (word[:kept], word[-kept:]) == ("corruption"[:kept], "corruption"[-kept:])
        assert sorted(word) == sorted("corruption")


def test_draws_are_uniform_and_shuffles_are_permutations() -> None:
    draws = Draws("uniform", 0)
    counts = [0] * 5
    for _ in range(10_000):
        counts[draws.below(5)] += 1
    assert all(abs(count - 2000) < 4 * (10_000 * 0.2 * 0.8) ** 0.5 for count in counts)
    assert sorted(draws.shuffled(range(50))) == list(range(50))


def test_what_a_family_cannot_give_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no family 'chian'\. Did you mean 'chain'\?"):
        find_family("chian")
    with pytest.raises(UserError, match="give at least 50"):
        make(FAMILIES["facts"], tmp_path / "facts", documents=20, problems=1)
    with pytest.raises(UserError, match="--source"):
        make(FAMILIES["gsm8k"], tmp_path / "gsm8k", documents=20, problems=1)
    with pytest.raises(UserError, match="ask for fewer than --problems 3000"):
        make(FAMILIES["facts"], tmp_path / "facts", documents=100, problems=3000)
    assert not list(tmp_path.rglob("*.jsonl*"))


def test_the_package_does_not_import_jax() -> None:
    program = "import sys, pathways_lite.tasks, pathways_lite.tasks.check; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_problem_of_a_file_verifies_by_its_record(tmp_path: Path) -> None:
    """The verifier that a file holds is the one that was drawn."""
    for name in MADE:
        make(FAMILIES[name], tmp_path / name, documents=60, problems=6)
        for problem in read_problems(tmp_path / name / "problems.jsonl"):
            assert problem.solution is not None
            assert verify(problem, problem.solution).correct
