"""Check problem files: answers verify, ids are unique, no group is in the training documents; and samples of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError, counted
from pathways_lite.tasks.gsm8k import json_lines
from pathways_lite.tasks.make import DOCUMENTS, KIND, MANIFEST
from pathways_lite.tasks.problems import PROBLEMS, Problem, problem_file, problems_digest, read_problems, verify


@dataclass
class Findings:
    """What a check found: numbers, and faults in one sentence each."""

    problems: int = 0
    verified: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    documents: int | None = None
    groups: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SampleCounts:
    """Verdicts on the samples of one domain."""

    problems: int
    samples: int
    unparsed: int
    correct: int


def check_problems(path: Path) -> Findings:
    """Check a problem file, or the directory that `tasks make` wrote; its documents are read where they are beside it.

    Raises UserError if the file cannot be read as problems (ids that are not unique included).
    """
    path = problem_file(path)
    problems = read_problems(path)
    groups = {problem.group for problem in problems if problem.group is not None}
    domains = Counter(problem.domain for problem in problems)
    findings = Findings(problems=len(problems), domains=dict(domains), groups=len(groups))
    for problem in problems:
        solution = problem.solution if problem.solution is not None else problem.answer
        if solution is None:
            continue
        verdict = verify(problem, solution)
        findings.verified += verdict.correct
        if not verdict.correct:
            findings.faults.append(f"{problem.id}: its own solution does not verify ({verdict.reason})")
    documents = path.with_name(DOCUMENTS)
    if documents.exists():
        findings.documents = 0
        straddling: Counter[str] = Counter()
        for _, record in json_lines(documents):
            findings.documents += 1
            if (group := record.get("group")) in groups:
                straddling[group] += 1
        for group, count in straddling.items():
            findings.faults.append(f"the group {group!r} is also in {counted(count, 'training document')}")
    findings.faults += _wrong_digests(path)
    return findings


def _wrong_digests(path: Path) -> Iterator[str]:
    """Yield what the manifest beside a problem file says otherwise; nothing if there is none."""
    manifest = path.with_name(MANIFEST)
    if path.name != PROBLEMS or not manifest.exists():
        return
    content = _read_json(manifest)
    if content.get("kind") != KIND:
        return
    for name, facts in content["files"].items():
        file = path.with_name(name)
        if not file.exists():
            yield f"{file} is missing"
        elif problems_digest(file) != facts["sha256"]:
            yield f"{file} was changed after it was made"


def check_samples(problems: list[Problem], digest: str, samples: Path) -> dict[str, SampleCounts]:
    """Verify all samples of a directory that `sample` wrote; return the counts by domain.

    Raises UserError for samples of other problems.
    """
    import pyarrow.parquet as pq

    manifest = _read_json(samples / "manifest.json")
    if manifest.get("problems_digest") != digest:
        raise UserError(
            f"{samples}: the samples are of other problems ({manifest.get('problems')}, digest "
            f"{str(manifest.get('problems_digest'))[:12]}) than these ({digest[:12]})"
        )
    by_id = {problem.id: problem for problem in problems}
    counts: dict[str, Counter[str]] = {}
    seen: dict[str, set[str]] = {}
    for part in sorted(samples.glob("part-*.parquet")):
        table = pq.read_table(part, columns=["problem", "text"])
        for key, text in zip(table["problem"].to_pylist(), table["text"].to_pylist(), strict=True):
            if key not in by_id:
                raise UserError(f"{part}: there is no problem {key!r}")
            problem = by_id[key]
            verdict = verify(problem, text)
            seen.setdefault(problem.domain, set()).add(key)
            count = counts.setdefault(problem.domain, Counter())
            count.update(samples=1, unparsed=verdict.answer is None, correct=verdict.correct)
    return {
        domain: SampleCounts(len(seen[domain]), count["samples"], count["unparsed"], count["correct"])
        for domain, count in counts.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected")
    return content
