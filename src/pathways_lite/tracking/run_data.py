"""Read a run directory without training code: the input of plots, reports and tables.

    <run>/recipe.json            the resolved recipe
    <run>/<stage>/log.jsonl      reproducible rows (see `log`)
    <run>/<stage>/timings.jsonl  wall-clock rows
    <run>/<stage>/ledger.json    {"stage": ledger, "total": ledger}, as `Ledger.to_json` gives them
    <run>/<stage>/summary.json   when the stage is finished:
        step, model: {parameters, non_embedding_parameters, flops_per_token},
        domains: {name: {loss, bits_per_byte, perplexity, nll, tokens, bytes, documents}}, with `lossy`
        and `overlap` where they are not 0,
        denoisers, if the objective has any: {name: {loss, tokens, content_loss, ..., unused}} (see `log`),
        tasks, if the recipe names any: {name: {items, accuracy, accuracy_se, chance, ...}} (docs/downstream.md),
        average_domains, average_denoisers, average_tasks, if there is a moving average: the same of the average,
        compressors: {domain: {"xz -9": bits per byte, ...}},
        samples: [{prompt, text, temperature, ...}], peak_flops: FLOP/s,
        environment: {name: version or description}, command: the command line

Any file may be missing or truncated: a run in progress, or interrupted, is read as far as possible.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pathways_lite.errors import UserError, similar_path, without_prefix
from pathways_lite.json_values import restore_floats
from pathways_lite.paths import local_path
from pathways_lite.recipe.stage import NAME_PATTERN
from pathways_lite.run_directory import node_label, study_hint
from pathways_lite.tracking.log import LOG, TIMINGS, Row, read_log

RECIPE = "recipe.json"
LEDGER = "ledger.json"
SUMMARY = "summary.json"

NOT_COMPARABLE = "Losses of denoisers are comparable neither with each other nor with the causal loss."


# ---- what is in the files, as far as pages and tables read it ----


class _Domain(TypedDict):
    loss: float
    bits_per_byte: float


class _Summary(TypedDict, total=False):
    step: int
    identity: str
    model: dict[str, float]
    domains: dict[str, _Domain]
    denoisers: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    average_domains: dict[str, _Domain]
    compressors: dict[str, dict[str, float]]
    samples: list[dict[str, Any]]
    peak_flops: float | None
    environment: dict[str, Any]
    command: str


class _Ledger(TypedDict, total=False):
    stage: dict[str, Any]
    total: dict[str, Any]


_SCHEMAS: dict[str, TypeAdapter[Any]] = {SUMMARY: TypeAdapter(_Summary), LEDGER: TypeAdapter(_Ledger)}


@dataclass(frozen=True)
class StageData:
    """The contents of a stage's files. Empty if they do not exist yet."""

    name: str
    directory: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        return bool(self.rows or self.timings)

    @property
    def is_finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_counts(self) -> Row:
        """The last log row with a count of tokens; empty if there is none."""
        return next((row for row in reversed(self.rows) if "tokens" in row), {})

    def rows_of_kind(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def held_out_text(self) -> tuple[Any, Any]:
        """What decides which held-out text the stage is evaluated on: the corpus, and tokens per domain."""
        data, evaluation = (self.recipe.get(name) or {} for name in ("data", "evaluation"))
        return data.get("fingerprint") or data.get("corpus"), evaluation.get("tokens")

    @property
    def evaluation(self) -> dict[str, dict[str, Any]]:
        """The last held-out results, per domain."""
        return self._newest_results("domains")

    @property
    def average_evaluation(self) -> dict[str, dict[str, Any]]:
        """The last held-out results of the moving average, per domain; empty if there is none."""
        return self._newest_results("average_domains")

    @property
    def denoisers(self) -> dict[str, dict[str, float]]:
        """The last held-out losses of the objective's denoisers; empty if it has none."""
        return self._newest_results("denoisers")

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The last results of tasks; empty if the recipe names none."""
        return self._newest_results("tasks")

    def _newest_results(self, name: str) -> dict[str, dict[str, Any]]:
        sources = [self.summary, *reversed(self.rows_of_kind("eval"))]
        return next((dict(source[name]) for source in sources if source.get(name)), {})


@dataclass(frozen=True)
class RunData:
    """The contents of a run directory."""

    directory: Path
    recipe: dict[str, Any]
    stages: list[StageData]  # in the recipe's order
    problems: list[str]  # files that could not be read, a sentence each

    @property
    def name(self) -> str:
        return str(self.recipe.get("name", self.directory.resolve().name))

    @property
    def title(self) -> str:
        """The name for people: of a study's node, whose siblings have the same name, with arm, seed and stage."""
        label = node_label(self.directory)
        return self.name if label is None else f"{self.name}: {label}"

    @property
    def is_finished(self) -> bool:
        return bool(self.stages) and all(stage.is_finished for stage in self.stages)

    def latest_stage_with(self, key: str) -> StageData | None:
        """Return the last stage whose summary has `key`, not empty; None if none does."""
        return next((stage for stage in reversed(self.stages) if stage.summary.get(key)), None)

    def compressors_of(self, stage: StageData) -> dict[str, dict[str, float]]:
        """Return what compressors need for the held-out text of a stage, as the last stage with this text says."""
        same = (other for other in reversed(self.stages) if other.held_out_text == stage.held_out_text)
        return next((other.summary["compressors"] for other in same if other.summary.get("compressors")), {})

    def latest_summary(self, key: str) -> Any:
        """Return `key` of the last stage's summary that has it; None if none does."""
        return None if (stage := self.latest_stage_with(key)) is None else stage.summary[key]


def read_run(directory: str | Path) -> RunData:
    """Read the run in `directory`. Raises UserError if there is none."""
    directory = local_path(directory)
    problems: list[str] = []
    recipe = _read_object(directory / RECIPE, problems)
    if not recipe and not problems:
        missing = f"{directory} is not a run directory: it has no {RECIPE}"
        raise UserError(study_hint(directory) or f"{missing}; `pathways-lite runs` lists runs{similar_path(directory)}")
    stages = []
    for stage in recipe.get("stages", []):
        name = stage.get("name") if isinstance(stage, dict) else None
        if isinstance(name, str) and NAME_PATTERN.fullmatch(name):  # a name with ".." would read other directories
            stages.append(_read_stage(directory / name, stage, problems))
        else:
            problems.append(f"{directory / RECIPE} has a stage called {name!r}, which names no directory")
    return RunData(directory, recipe, stages, problems)


def _read_stage(directory: Path, recipe: dict[str, Any], problems: list[str]) -> StageData:
    return StageData(
        name=directory.name,
        directory=directory,
        recipe=recipe,
        rows=_read_rows(directory / LOG, problems),
        timings=_read_rows(directory / TIMINGS, problems),
        ledger=_read_object(directory / LEDGER, problems),
        summary=_read_object(directory / SUMMARY, problems),
    )


def _read_rows(path: Path, problems: list[str]) -> list[Row]:
    try:
        rows = read_log(path)
        lost = [row["step"] for row in rows if row.get("event") == "lost_rows"]
        problems.extend(f"{path} has lost rows from before step {step:,}: what is drawn has a hole" for step in lost)
        return rows
    except (OSError, UserError) as error:
        problems.append(str(error))
        return []


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = restore_floats(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path} does not hold a JSON object")
        return {}
    try:
        if schema := _SCHEMAS.get(path.name):
            schema.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problems.append(f"{path} is not read: {'.'.join(map(str, first['loc']))}: {without_prefix(first['msg'])}")
        return {}
    return content


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of `window` (odd) values around each one; near the ends, of fewer but symmetrically."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)
