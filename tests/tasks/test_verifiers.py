"""Verifiers: known answers, and programs that must be refused."""

import time

import pytest

from pathways_lite.tasks.answers import AnyOfNames, ExactInteger, ExactText, FirstWord, GSM8KNumber
from pathways_lite.tasks.chain import Chain
from pathways_lite.tasks.code import ListProgram
from pathways_lite.tasks.grammar import ClosedBrackets, Expression, IsoDate
from pathways_lite.tasks.list_expressions import OPERATIONS, ExpressionError, evaluate, parse

CHAIN = Chain(numbers=(7, 25, 9, 40), signs="+-+")


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("16-7=<<16-7=9>>9\n#### 18", "18", True),
        ("#### 18\n\nQuestion: ...\n#### 7", "18", True),  # the first one counts
        ("#### 7 #### 18", "7", False),
        ("####18", "18", True),
        ("#### $18.00", "18", True),
        ("#### 1,8", "18", True),
        ("the answer is 18", None, False),
        ("#### eighteen #### 18", None, False),
        ("#### -18", "-18", False),
        ("", None, False),
    ],
)
def test_gsm8k(text: str, answer: str | None, correct: bool) -> None:
    verdict = GSM8KNumber(answer="18").judge(text)
    assert (verdict.answer, verdict.correct) == (answer, correct)


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (" ring. Then she", "ring", True),
        ('\n"ring"', "ring", True),
        (" rings", "rings", False),
        (" a ring", "a", False),
        (" ...", None, False),
        ("", None, False),
    ],
)
def test_the_first_word(text: str, answer: str | None, correct: bool) -> None:
    verdict = FirstWord(answer="ring").judge(text)
    assert (verdict.answer, verdict.correct) == (answer, correct)


def test_gsm8k_compares_numbers_exactly() -> None:
    assert GSM8KNumber(answer="1,234.50").judge("#### 1234.5").correct
    assert not GSM8KNumber(answer="0.1").judge("#### 0.10000000000000001").correct


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [(" 133\n", "133", True), ("0133", "133", True), (" 133 is it", None, False), ("", None, False),
     ("1_33", None, False),
     ("\n133", None, False), ("-133", "-133", False), ("9" * 5000, None, False), ("١٣٣", None, False)],
)  # fmt: skip
def test_integers(text: str, answer: str | None, correct: bool) -> None:
    verdict = ExactInteger(answer=133).judge(text)
    assert (verdict.answer, verdict.correct) == (answer, correct)


def test_texts_and_names() -> None:
    assert ExactText(answer="caf\u00e9 noir").judge(" cafe\u0301  noir\nmore").correct
    assert not ExactText(answer="caf\u00e9").judge("Caf\u00e9").correct
    names = AnyOfNames(names=("Ada Mira Lund", "Ada M. Lund"))
    assert names.judge(" ada m. lund.\n").correct
    assert names.judge("Ada M. Lund").answer == names.judge("Ada Mira Lund").answer
    assert not names.judge("Ada N. Lund").correct


@pytest.mark.parametrize(
    ("text", "steps", "correct"),
    [
        ("7+25=32\n32-9=23\n23+40=63\n= 63\n", (True, True, True), True),
        ("7+25=33\nwait\n7+25=32\n32-9=23\n23+40=63\n= 63\n", (False, True, True, True), True),
        ("7+25=33\n33-9=24\n24+40=64\n= 64\n", (False, False, False), False),
        ("7+25=33\n32-9=23\n23+40=63\n= 63\n", (False, False, False), True),  # right by luck: the steps say so
        ("= 63\n", (), True),
        ("7+25=32\n32-9=", (True, False), False),
        ("7+25=32\n32-9=23\n23+40=63\n63+1=64\n= 64\n", (True, True, True, False), False),
        ("wait\nwait\n7+25=32\n", (True,), False),
    ],
)
def test_every_step_of_a_chain_is_judged(text: str, steps: tuple[bool, ...], correct: bool) -> None:
    verdict = CHAIN.judge(text)
    assert (verdict.steps, verdict.correct) == (steps, correct)


def test_grammars() -> None:
    brackets = ClosedBrackets(opened="([")
    assert brackets.judge(" ])\n").correct
    assert brackets.judge("]()){}").correct, "any text that balances is right"
    verdict = brackets.judge(")]")
    assert (verdict.correct, verdict.weak) == (False, True)
    assert brackets.judge("no").weak is False
    date = IsoDate(answer="2024-02-29")
    assert date.judge("2024-02-29").correct
    assert [date.judge(text).weak for text in ("2024-03-01", "2023-02-29", "2024-2-29", "0000-01-01")] == [
        True, False, False, False,
    ]  # fmt: skip
    expression = Expression(value=24, digits=3)
    assert expression.judge("2*(8+4)").correct
    assert expression.judge("8+8+8").correct
    assert (expression.judge("3*8").correct, expression.judge("3*8").weak) == (False, True)
    assert expression.judge("24").weak is False


# ---- programs ----

PROGRAM = ListProgram(visible=(((1, 2), (2,)),), hidden=(((1, 2), (2,)), ((4, 3, 2), (4, 2))))


@pytest.mark.parametrize(
    ("text", "correct", "weak"),
    [
        ("    # plan: evens\n    return evens(xs)\n", True, True),
        ("return(evens(xs))", True, True),
        ("return drop(xs, 1)", False, True),  # right on the visible test only
        ("return reverse(xs)", False, False),
        ("print(1)\nreturn evens(xs)", False, False),
        ("evens(xs)", False, False),
    ],
)
def test_programs_are_judged_by_their_tests(text: str, correct: bool, weak: bool) -> None:
    verdict = PROGRAM.judge(text)
    assert (verdict.correct, verdict.weak) == (correct, weak)


def test_equal_programs_have_equal_answers() -> None:
    assert PROGRAM.judge("return  take( evens(xs),2 )").answer == PROGRAM.judge("return (take(evens(xs), 2))").answer


MALICIOUS = [
    "__import__('os').system('true')", "xs.__class__.__bases__", "xs.append(1)", "9**9**9**9", "2 << 10**9",
    "[x for x in xs for y in xs]", "[0] * 10**9", "(lambda: xs)()", "sorted(xs)", "open('x')", "eval('xs')",
    "take(xs, k=1)", "take(*xs)", "xs[::-1]", "xs if xs else xs", "(y := xs)", "f'{xs}'", "'a' * 9", "True", "1.5",
    "1j",
    "take(xs, True)", "take(xs, 10**9)", f"take(xs, {10**13})", "evens", "evens()", "evens(xs, xs)", "take(xs)",
    "take(1, xs)", "take(xs, xs)", "3", "-xs", "[xs]", "await xs", "yield xs", "xs; xs", "xs\nxs", "", "...", "None",
    "(" * 250 + ")" * 140, "-" * 399 + "1", "[" * 199 + "]" * 199, "evens(" * 60 + "xs" + ")" * 60 + "+1",
    "add(xs, " + "9" * 380 + ")", "xs" + " " * 500, "1if 1else 2", "'\\d'", "xs\0",
]  # fmt: skip


@pytest.mark.parametrize("text", MALICIOUS)
@pytest.mark.filterwarnings("error")
def test_everything_else_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ExpressionError):
        evaluate(parse(text), [1, 2, 3])
    assert not PROGRAM.judge(f"return {text}").correct
    assert time.perf_counter() - start < 0.5


def test_steps_and_sizes_are_bounded() -> None:
    deep = "double(" * 45 + "xs" + ")" * 45
    with pytest.raises(ExpressionError, match="too large"):
        evaluate(parse(deep), [1])
    with pytest.raises(ExpressionError, match="too many steps"):
        evaluate(parse("reverse(" * 30 + "xs" + ")" * 30), list(range(400)))
    assert evaluate(parse("reverse(" * 30 + "xs" + ")" * 30), [1, 2]) == [1, 2]


def test_operations_by_known_answers() -> None:
    expected = {
        "reverse(xs)": [2, -3, 2, 5], "ascend(xs)": [-3, 2, 2, 5], "descend(xs)": [5, 2, 2, -3],
        "unique(xs)": [5, 2, -3],
        "double(xs)": [10, 4, -6, 4], "negate(xs)": [-5, -2, 3, -2], "add(xs, -1)": [4, 1, -4, 1],
        "take(xs, 2)": [5, 2], "drop(xs, 3)": [2], "evens(xs)": [2, 2], "odds(xs)": [5, -3], "totals(xs)": [5, 7, 4, 6],
        "take(xs, -1)": [], "drop(xs, -1)": [5, 2, -3, 2], "take([3, -4], 1)": [3],
    }  # fmt: skip
    assert {text: evaluate(parse(text), [5, 2, -3, 2]) for text in expected} == expected
    assert {text.partition("(")[0] for text in expected} == set(OPERATIONS)
    assert len(OPERATIONS) == 12
