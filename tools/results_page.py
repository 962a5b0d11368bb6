#!/usr/bin/env python3
"""Write docs/results/README.md: every method on one page, with what the studies measured.

    pathways-lite study evaluate configs/ablations/NAME.py --tokens N
    pathways-lite study report configs/ablations/NAME.py --results docs/results/data
    python tools/results_page.py

It reads what `study report --results` wrote, docs/results/data/NAME.json, and docs/results/data/methods.toml, which has
each method's claim and the arms that decide it. Files of older studies have differences with intervals instead of
losses by document, and name the page that they were taken from; a study whose criteria are of other numbers has
`claims`, each with whether it holds. Verdicts follow from the numbers: a claim holds if
Student's t interval over seeds and that over held-out documents are below its bound, and for a bound of 0 p < 0.05
after Holm's correction over the study's arms; it does not if both are above; else, or where methods.toml says that the
study could not have shown it, it cannot be said here.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.comparison.bootstrap import holm
from pathways_lite.comparison.table import format_signed
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.json_values import restore_floats
from pathways_lite.studies import Study, load_study
from pathways_lite.studies.final_losses import FinalDifference, final_difference
from pathways_lite.tracking.formatting import si

ROOT = Path(__file__).parent.parent
HOLDS, DOES_NOT, CANNOT, NOT_RUN = "holds", "does not hold", "cannot be said here", "not run yet"
_INTRODUCTION = """# Results: every method on one page

<!-- Written by tools/results_page.py from docs/results/data; do not edit. -->

Which of these methods to try first, and how sure that is. All studies are small: toys on one or two CPU cores, or a
real model of 135M parameters. So **holds** means that the paper's claim came out here, at the size and on the text of
the row; **does not hold** that its opposite did; **cannot be said here** that the numbers do not decide it, or that the
study could not have shown it, for the reason given. Differences are in nats per token, negative where the method ends
lower; brackets are 95 % intervals by Student's t, first over paired seeds, then over held-out documents.
"""


@dataclass(frozen=True)
class Verdict:
    word: str
    numbers: str  # what came out
    reason: str = ""


class Results:
    """The measured studies, by name."""

    def __init__(self, directory: Path) -> None:
        self.methods = tomllib.loads((directory / "methods.toml").read_text())["method"]
        files = sorted(directory.glob("*.json"))
        self.studies: dict[str, Any] = {path.stem: restore_floats(json.loads(path.read_text())) for path in files}

    def judge(self, evidence: Mapping[str, Any]) -> Verdict:
        """Decide what a study says of a claim."""
        if (results := self.studies.get(evidence["study"])) is None and "found" not in evidence:
            return Verdict(NOT_RUN, "")
        if results is not None and "criterion" in evidence:
            claim = results.get("claims", {}).get(evidence["criterion"])
            if claim is None:
                raise SystemExit(f"error: {evidence['study']}.json has no claim {evidence['criterion']!r}")
            if claim["holds"] is None:
                return Verdict(CANNOT, claim["found"], "the interval includes zero")
            return Verdict(HOLDS if claim["holds"] else DOES_NOT, claim["found"])
        tests = [] if results is None else [self._test(results, evidence, arm) for arm in evidence.get("arm", ())]
        numbers = evidence.get("found") or "; ".join(numbers for numbers, _ in tests)
        if "cannot" in evidence:
            return Verdict(CANNOT, numbers, evidence["cannot"])
        decisions = {decision for _, decision in tests}
        if decisions == {True}:
            return Verdict(HOLDS, numbers)
        if False in decisions:
            return Verdict(DOES_NOT, numbers)
        bound = f"{evidence.get('below', 0):+g}" if evidence.get("below") else "zero"
        return Verdict(CANNOT, numbers, f"{bound} is not outside all intervals")

    def _test(self, results: Mapping[str, Any], evidence: Mapping[str, Any], arm: str) -> tuple[str, bool | None]:
        """Return the numbers of an arm, and whether they are below the bound: True, False, or None."""
        bound = evidence.get("below", 0.0)
        if (measure := evidence.get("measure")) is not None:
            kind = "difference" if evidence.get("compared") else "value"
            found = [m for m in results["measures"] if (m["arm"], m["measure"]) == (arm, measure)]
            if not found:
                return f"{arm}: {measure} was not measured", None
            interval = Interval(*found[0][kind])
            return f"`{arm}`, `{measure}`: {format_signed(interval)}", _decide([interval], bound)
        against = evidence.get("against", results["baseline"])
        if "documents" not in results:  # taken from a page, with differences from the baseline alone
            interval = Interval(*results["arms"][arm]["difference"])
            return f"`{arm}` from `{against}`: {format_signed(interval)}", _decide([interval], bound)
        if (d := final_difference(results, arm, against, evidence.get("domain", results["domain"]))) is None:
            return f"{arm}: no seed with {against}", None
        intervals = [d.over_seeds, d.over_documents]
        text = f"`{arm}` from `{against}`: {format_signed(d.over_seeds)}; documents {format_signed(d.over_documents)}"
        decision = _decide(intervals, bound)
        if bound == 0 and not _remains(results, d, evidence.get("domain", results["domain"])):
            decision = None
        return text, decision


def _decide(intervals: Sequence[Interval], bound: float) -> bool | None:
    if not all(interval.has_limits for interval in intervals):
        return None
    if all(interval.high < bound for interval in intervals):
        return True
    return False if all(interval.low > bound for interval in intervals) else None


def _remains(results: Mapping[str, Any], difference: FinalDifference, domain: str | None) -> bool:
    """Say whether p < 0.05 after Holm's correction over all arms that are compared with the same one."""
    others = [
        final_difference(results, arm, difference.against, domain)
        for arm in results["arms"]
        if arm not in (difference.arm, difference.against)
    ]
    p_values = [difference.p_value, *(other.p_value for other in others if other is not None)]
    corrected = holm(p_values)[0]
    return corrected is not None and corrected < 1 - LEVEL


def study_files() -> dict[str, Path]:
    """Return the files of all studies that the page lists, by name."""
    paths = [*(ROOT / "configs" / "ablations").glob("*.py"), *(ROOT / "configs" / "studies").glob("*.py")]
    return {path.stem: path for path in sorted(paths)}


def render(results: Results) -> str:
    """Return the page."""
    files = study_files()
    rows = [(method, item, results.judge(item)) for method in results.methods for item in method["evidence"]]
    if unknown := {item["study"] for _, item, _ in rows} - set(files):
        raise SystemExit(f"error: methods.toml names {', '.join(sorted(unknown))}, which are no studies in configs")
    tables = [*_method_table(rows, results, files), "", *_study_table(results, files), ""]
    return "\n".join([_INTRODUCTION, *_summary(rows), "", *tables])


def _summary(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Verdict]]) -> Iterator[str]:
    words: dict[str, set[str]] = {}
    for method, _, verdict in rows:
        words.setdefault(method["name"], set()).add(verdict.word)
    best = {name: next(w for w in (HOLDS, DOES_NOT, NOT_RUN, CANNOT) if w in found) for name, found in words.items()}
    mixed = {name for name, found in words.items() if {HOLDS, DOES_NOT} <= found}
    for word, text in ((HOLDS, "Holds"), (DOES_NOT, "Does not hold"), (NOT_RUN, "A study is ready, but not run yet")):
        names = [name for name, w in best.items() if w == word and name not in mixed]
        yield f"- **{text}**: {', '.join(names) or 'none'}."
    if mixed:
        yield f"- **Holds in one study and not in another**: {', '.join(sorted(mixed))}."
    yield f"- **Cannot be said here**: {', '.join(name for name, w in best.items() if w == CANNOT) or 'none'}."


def _method_table(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Verdict]], results: Results, files: Mapping[str, Path]
) -> Iterator[str]:
    yield "## Methods"
    yield ""
    yield "| method | claim of the paper | what came out | where | verdict | study, hours |"
    yield "|---|---|---|---|---|---|"
    last = None
    for method, evidence, verdict in rows:
        name = "" if method is last else f"**{method['name']}**"
        claim = "" if method is last else f"{method['claim']} ({method['paper']})"
        last, study = method, results.studies.get(evidence["study"])
        word = f"**{verdict.word}**" + (f": {verdict.reason}" if verdict.reason else "")
        where = "" if study is None else _where(study, evidence)
        yield f"| {name} | {claim} | {verdict.numbers} | {where} | {word} | {_link(evidence, study, files)} |"


def _where(study: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    if "where" in study:
        return str(study["where"])
    arms = [study["arms"][arm] for arm in evidence.get("arm", ()) if arm in study["arms"]]
    facts = arms[0] if arms and "parameters" in arms[0] else study
    if "parameters" not in facts:
        return ""
    seeds = len(facts["seeds"]) if isinstance(facts["seeds"], list) else facts["seeds"]
    ratio = facts["tokens"] / facts["parameters"]
    documents = f", {sum(map(len, study['documents'].values()))} documents" if study.get("documents") else ""
    return f"{si(facts['parameters'])} parameters, {ratio:.2g} tokens per parameter, {seeds} seeds{documents}"


def _link(evidence: Mapping[str, Any], study: Mapping[str, Any] | None, files: Mapping[str, Path]) -> str:
    name = evidence["study"]
    path = files[name].relative_to(ROOT)
    page = f", [page]({target})" if (target := evidence.get("page") or (study or {}).get("page")) else ""
    hours = f", {study['hours']:g} h" if study and study.get("hours") else ""
    return f"[`{name}`](../../{path}){page}{hours}"


def _study_table(results: Results, files: Mapping[str, Path]) -> Iterator[str]:
    yield "## Studies"
    yield ""
    yield "The command of each is in its file, with corpora, cost, and the criterion that was fixed beforehand."
    yield ""
    yield "| study | question | state |"
    yield "|---|---|---|"
    for name, path in files.items():
        study: Study = load_study(path)
        evidence = [e for method in results.methods for e in method["evidence"] if e["study"] == name]
        measured = name in results.studies or any("found" in e for e in evidence) or _says_measured(path)
        state = "measured" if measured else NOT_RUN
        yield f"| `pathways-lite study run {path.relative_to(ROOT)}` | {study.question} | {state} |"


def _says_measured(path: Path) -> bool:
    """Say whether the study's own docstring has its result, as that of a sweep of rates does."""
    return "\nExpected result: not measured" not in path.read_text()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path = ROOT / "docs" / "results" / "README.md"
    path.write_text(render(Results(path.parent / "data")), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
