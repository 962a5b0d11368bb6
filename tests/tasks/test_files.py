"""Problem files, `tasks` on the command line, and docs/tasks.md."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.invented_texts import invented_text
from helpers.invoke import invoke
from pathways_lite.errors import UserError
from pathways_lite.tasks import FAMILIES, problems_digest, read_problems, verify

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
GSM8K = [
    {"question": f"{name} has {n} eggs and buys {m}. How many?", "answer": f"{n}+{m}=<<{n}+{m}={n + m}>>\n#### {n + m}"}
    for n, name in enumerate(["Ann", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lee"] * 3, 1)
    for m in (2, 3)
]


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "train.jsonl", GSM8K)
    write_lines(tmp_path / "test.jsonl", GSM8K[:5])
    write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in map(invented_text, range(100))])
    return tmp_path


def test_the_commands_of_the_page_work(workplace: Path) -> None:
    commands = [
        line for block in re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
    ]
    assert len(commands) == 8
    for command in commands:
        program, *arguments = shlex.split(command.replace("60000", "300").replace("256", "16"))
        assert program == "pathways-lite"
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})


def test_the_page_has_every_family() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(FAMILIES)
    listed = json.loads(invoke("tasks", "list", "--json").output)
    assert [each["family"] for each in listed] == list(FAMILIES)
    assert all(each["prompt"] and each["solution"] for each in listed)


def test_made_again_is_the_same_and_other_arguments_are_refused(workplace: Path) -> None:
    arguments = ("tasks", "make", "sum", "out", "--documents", 40, "--problems", 5)
    first = json.loads(invoke(*arguments, "--json").output)
    (workplace / "out" / "manifest.json").unlink()  # as after a kill
    assert json.loads(invoke(*arguments, "--json").output) == first == json.loads(invoke(*arguments, "--json").output)
    with pytest.raises(UserError, match="made with seed 0; name another directory"):
        invoke(*arguments, "--seed", 1)
    (workplace / "mine").mkdir()
    (workplace / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="mine is not empty"):
        invoke("tasks", "make", "sum", "mine")
    with pytest.raises(UserError, match="leave --source out"):
        invoke("tasks", "make", "sum", "other", "--source", "train.jsonl")


def test_check_finds_what_is_wrong(workplace: Path) -> None:
    invoke("tasks", "make", "sum", "out", "--documents", 40, "--problems", 5)
    assert invoke("tasks", "check", "out").exit_code == 0
    problems, documents = workplace / "out" / "problems.jsonl", workplace / "out" / "documents.jsonl"
    lines = [json.loads(line) for line in problems.read_text().splitlines()]
    with documents.open("a") as file:
        file.write(json.dumps({"text": "leak", "group": lines[0]["group"]}) + "\n")
    lines[1]["solution"] = " 0.5\n"
    write_lines(problems, lines)
    result = invoke("tasks", "check", "out", "--json")
    facts = json.loads(result.output)
    assert result.exit_code == 1
    assert not facts["ok"]
    assert (facts["problems"], facts["verified"], facts["documents"]) == (5, 4, 41)
    text = "\n".join(facts["faults"])
    assert f"{lines[1]['id']}: its own solution does not verify" in text
    assert f"the group {lines[0]['group']!r} is also in 1 training document" in text
    assert text.count("was changed after it was made") == 2
    write_lines(problems, [*lines, lines[0]])
    with pytest.raises(UserError, match=r"problems.jsonl:6: the id .* is that of .*:1 too"):
        invoke("tasks", "check", "out")


def test_check_counts_samples(workplace: Path) -> None:
    invoke("tasks", "make", "sum", "out", "--documents", 10, "--problems", 3)
    problems = read_problems("out/problems.jsonl")
    samples = workplace / "samples"
    samples.mkdir()
    texts = [text for problem in problems for text in (problem.solution, " 123456", "no idea")]
    columns = {"problem": [problem.id for problem in problems for _ in range(3)], "text": texts}
    pq.write_table(pa.table(columns), samples / "part-00000.parquet")
    manifest = {
        "kind": "pathways_lite.samples",
        "problems": "x",
        "problems_digest": problems_digest("out/problems.jsonl"),
    }
    (samples / "manifest.json").write_text(json.dumps(manifest))
    facts = json.loads(invoke("tasks", "check", "out", samples, "--json").output)
    assert facts["samples"] == {"sum": {"problems": 3, "samples": 9, "unparsed": 3, "correct": 3}}
    (samples / "manifest.json").write_text(json.dumps(manifest | {"problems_digest": "0" * 64}))
    with pytest.raises(UserError, match="the samples are of other problems"):
        invoke("tasks", "check", "out", samples)


def test_gsm8k_files_are_problems_and_are_split(workplace: Path) -> None:
    problems = read_problems("test.jsonl")
    assert problems[0].domain == "gsm8k"
    assert problems[0].prompt == "Question: Ann has 1 eggs and buys 2. How many?\nAnswer:"
    assert verify(problems[0], GSM8K[0]["answer"]).answer == "3"
    assert problems[0].group == problems[1].group, "other numbers make a variant"
    with gzip.open("test.jsonl.gz", "wt") as file:
        file.write(Path("test.jsonl").read_text())
    assert read_problems("test.jsonl.gz") == problems
    invoke("tasks", "make", "gsm8k", "out", "--source", "train.jsonl")
    documents = [json.loads(line) for line in Path("out/documents.jsonl").read_text().splitlines()]
    asked = read_problems("out/problems.jsonl")
    assert len(documents) + len(asked) == len(GSM8K)
    assert not {problem.group for problem in asked} & {document["group"] for document in documents}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "a JSON object is expected, not list"),
        ('{"id": "a", "prompt": "x"}', "it has neither answer nor verify"),
        ('{"id": "a", "answer": "x"}', "it has neither prompt nor messages"),
        ('{"prompt": "a", "answer": "x"}', "id: Field required"),
        ('{"id": "a", "prompt": "x", "verify": {"kind": "intger", "answer": 1}}', "verify: .*intger.*'integer'"),
        ('{"id": "a", "prompt": "x", "verify": {"kind": "chain", "numbers": [1, 2, 3], "signs": "+"}}', "3 numbers"),
        ('{"question": "a", "answer": "#### many"}', "no number follows ####"),
        ("", "has no problems"),
        ("\udcff", "damaged after line 0"),
    ],
)  # fmt: skip
def test_bad_problem_files_are_told_by_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(UserError, match=message):
        read_problems(path)


def test_files_of_ones_own_need_three_fields(tmp_path: Path) -> None:
    records = [
        {"id": "a", "prompt": "The capital of France is", "answer": "Paris", "source": "mine"},
        {"id": "b", "messages": [{"role": "user", "content": "2+2?"}], "verify": {"kind": "integer", "answer": 4}},
    ]
    first, second = read_problems(write_lines(tmp_path / "mine.jsonl", records))
    assert verify(first, " Paris\nand").correct
    assert verify(second, "4").correct
    assert first.model_dump()["source"] == "mine"
