"""The problems that samples are of, with their verifiers, and a weak verifier that sees a part of the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathways_lite.errors import UserError, did_you_mean, similar_path
from pathways_lite.judging.samples import Samples
from pathways_lite.tasks import Problem, Verdict, problem_file, problems_digest, read_problems, verify


@dataclass(frozen=True)
class ProblemVerifier:
    """Problems by id; `identity` changes with the verdicts that they give."""

    problems: dict[str, Problem]
    identity: str

    def verify(self, problem: str, text: str) -> Verdict:
        """Return the verdict on a text of the problem with that id."""
        return verify(self.problems[problem], text)


def verifier_of(
    samples: Samples, problems: Path | None, weak: str | None = None, *, directory: Path
) -> ProblemVerifier:
    """Return the problems of the samples in `directory`, by default in the file that their manifest names.

    `weak`: `FIELD:N`, such as `visible:2`: the weak verifier sees the first N tests of the verifiers' FIELD. Raises
    UserError for a file with other content than that which the samples were drawn for, and for a FIELD that no problem
    has.
    """
    path = problems or _problems_path(samples, directory)
    if problems is not None:
        path = problem_file(problems)
    elif not path.is_file():
        advice = "name the file that the samples are of with --problems"
        raise UserError(f"there is no file of problems {path}; {advice}{similar_path(path)}")
    digest = problems_digest(path)
    expected = samples.manifest.get("problems_digest")
    if digest != expected:
        raise UserError(
            f"{path} (SHA-256 {digest[:12]}) is not the file that {directory} has samples of "
            f"({str(expected)[:12]}); name that file with --problems, or sample again"
        )
    known = {problem.id: problem for problem in read_problems(path)}
    if unknown := next((name for name in samples.problem if name not in known), None):
        raise UserError(f"{directory} has samples of {unknown!r}, which is no problem of {path}")
    sampled = {name: known[name] for name in dict.fromkeys(samples.problem)}
    if weak is None:
        return ProblemVerifier(sampled, digest)
    weakened = {name: _weaken(problem, weak) for name, problem in sampled.items()}
    if all(problem is None for problem in weakened.values()):
        raise UserError(_no_weak_verifier(weak, list(sampled.values())))
    chosen = {name: problem or sampled[name] for name, problem in weakened.items()}
    return ProblemVerifier(chosen, f"{digest}/{weak}")


def _problems_path(samples: Samples, directory: Path) -> Path:
    """Return the path in the manifest, which may be relative to where `sample` ran, or to the directory."""
    written = samples.manifest.get("problems")
    if not written:
        raise UserError(f"the manifest of {directory} names no file of problems; name it with --problems")
    path = Path(str(written))
    return path if path.is_file() or not (directory / path).is_file() else directory / path


def _weaken(problem: Problem, weak: str) -> Problem | None:
    """Return the problem with a shorter list of tests; None if its verifier has no such list."""
    field, count = parse_weak(weak)
    tests = getattr(problem.verify, field, None)
    if problem.verify is None or not isinstance(tests, tuple):
        return None
    return problem.model_copy(update={"verify": problem.verify.model_copy(update={field: tests[:count]})})


def parse_weak(weak: str) -> tuple[str, int]:
    """Parse `FIELD:N`. Raises UserError for anything else."""
    field, colon, count = weak.partition(":")
    if not colon or not field or not count.isdecimal() or int(count) < 1:
        raise UserError(f"--weak {weak!r}: give a list of tests and how many of them are seen, like visible:2")
    return field, int(count)


def _no_weak_verifier(weak: str, problems: list[Problem]) -> str:
    field, _ = parse_weak(weak)
    lists = {
        name for p in problems if p.verify is not None for name, value in p.verify if name != "hidden"
        and isinstance(value, tuple)
    }  # fmt: skip
    if lists:
        return f"--weak {weak}: the verifiers have no tests named {field}.{did_you_mean(field, sorted(lists))}"
    kinds = sorted({p.verify.kind if p.verify is not None else "text" for p in problems})
    return f"--weak {weak}: verifiers of kind {', '.join(kinds)} have no visible tests; leave --weak out"
