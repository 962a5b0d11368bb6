"""Build a table for fits from run directories: one row per held-out evaluation, read without training code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError, counted, similar_path
from pathways_lite.scaling.table import OWN_COLUMNS, Table
from pathways_lite.tracking.log import Row
from pathways_lite.tracking.run_data import RunData, StageData, read_run

_SHOWN = 3  # studies that are named


def runs_table(paths: Iterable[str | Path], *, final: bool = False) -> Table:
    """Build a table with a row per evaluation of every stage of the runs at or below `paths` (runs, or a study).

    Columns: run, stage, step, lineage (the earlier stages, joined by " > "), start (the kind of the stage's start),
    corpus (name@fingerprint), vocab_size, optimizer,
    schedule, seed, lr, B (batch in tokens); N, N_non_embedding, N_active (not pruned), N_average (active,
    averaged over the chain's tokens); D, C and C_sparse (zeros skipped) of the whole chain, U (unique tokens, if the
    stages share a corpus), the stage's own D_stage and C_stage; L (nats per token over all held-out text), loss_NAME
    and bits_NAME per domain; train_loss. Unknown values are NaN or an empty text.

    `cost_elsewhere` says whether the chain starts from a model that was trained elsewhere: "stated", its cost is
    counted as its user stated it; "unknown", then D, U, C, C_sparse and N_average, which are of the chain, are NaN.

    A stage without logs has a row per checkpoint, from the ledger in its manifest; the last has the summary's results.
    A path may also be a checkpoint that `grow`, `merge` or `convert` wrote, whose row has no loss. Of a quantized one,
    P are the bits of its codes, effective_bits those of a quantized weight with its share of scales, quantization the
    method.

    Rows of a stage that several runs share are not repeated. `final`: one row per finished run, its last evaluation.
    Raises UserError if there is no run, or no row.
    """
    outputs = [path for path in map(Path, paths) if _manifests(path)]
    directories = [run for path in paths if Path(path) not in outputs for run in find_runs(Path(path))]
    rows: list[dict[str, Any]] = []
    stage_dirs: set[Path] = set()
    for directory in directories:
        new = [(stage_dir, row) for stage_dir, row in _evaluation_rows(directory, final) if stage_dir not in stage_dirs]
        rows += [row for _, row in new]
        stage_dirs |= {stage_dir for stage_dir, _ in new}
    for manifest in [manifest for path in outputs if not final for manifest in _manifests(path)]:
        step, meta = _read_manifest(manifest)
        rows.append(checkpoint_row(manifest.parent, step, meta, {}))
    if not rows:
        reason = "is finished" if final else "has a held-out evaluation or a checkpoint yet"
        raise UserError(f"none of {len(directories) + len(outputs)} runs {reason}; a table has one row for each")
    return to_columns(rows)


def find_runs(path: Path) -> list[Path]:
    """List the run directories: `path` itself, those in it, or those of a study. Raises UserError if there is none.

    Nodes of studies that are in `path` are not among them, as each study answers a question of its own; see
    `left_out_studies`.
    """
    for pattern in ("recipe.json", "*/recipe.json", "nodes/*/recipe.json"):
        if runs := sorted(recipe.parent for recipe in path.glob(pattern)):
            return runs
    if note := left_out_studies([path]):
        raise UserError(f"there are no runs in {path} but those of studies: {note}")
    similar = similar_path(path)
    raise UserError(f"there is no run at or below {path} (no recipe.json); `pathways-lite runs` lists runs{similar}")


def left_out_studies(paths: Sequence[Path], advice: str = "name a study itself, as in") -> str:
    """Say how many nodes of studies in `paths` are not among `find_runs`, and what to do; "" where there are none.

    `advice` is followed by the directory of a study.
    """
    given = {path.resolve() for path in paths}
    nodes = Counter(
        study
        for path in paths
        for study in (recipe.parents[2] for recipe in path.glob("*/nodes/*/recipe.json"))
        if study.resolve() not in given and not study.name.startswith(".")
    )
    if not nodes:
        return ""
    studies = sorted(nodes)
    listed = ", ".join(study.name for study in studies[:_SHOWN])
    listed += f" and {len(studies) - _SHOWN} more" if len(studies) > _SHOWN else ""
    which = "a study" if len(nodes) == 1 else f"{len(nodes)} studies"
    return f"{counted(nodes.total(), 'node')} of {which} left out ({listed}): {advice} {studies[0]}"


def _evaluation_rows(directory: Path, final: bool) -> list[tuple[Path, dict[str, Any]]]:
    """Return the rows of a run, each with the directory of its stage, links resolved."""
    run = read_run(directory)
    if final and not run.is_finished:
        return []
    rows = []
    for index, stage in enumerate(run.stages):
        stage_dir = stage.directory.resolve()
        rows += [
            (stage_dir, _table_row(run, index, evaluation))
            for evaluation in stage.rows_of_kind("eval") or _checkpoint_rows(stage)
        ]
    return rows[-1:] if final else rows


def _table_row(run: RunData, index: int, evaluation: Row) -> dict[str, Any]:
    stage, before = run.stages[index], run.stages[:index]
    return {
        "run": str(run.directory),
        "stage": stage.name,
        "step": evaluation["step"],
        "lineage": " > ".join(s.name for s in before),
        "seed": run.recipe.get("seed"),
        **_recipe_columns(stage),
        **_size_columns(stage, evaluation, before),
        **loss_columns(evaluation.get("domains", {})),
        "train_loss": _train_loss(stage, evaluation["step"]),
    }


def _checkpoint_rows(stage: StageData) -> list[Row]:
    """Read the manifests of the stage's checkpoints as rows of a log."""
    rows = []
    for path in _manifests(stage.directory / "checkpoints"):
        step, meta = _read_manifest(path)
        row = _row_of_ledger(step, meta["ledger"])
        if stage.summary.get("step") == row["step"]:
            row["domains"] = stage.summary.get("domains", {})
        rows.append(row)
    return rows


def _manifests(directory: Path) -> list[Path]:
    """Return the manifests of the checkpoints that are directly in a directory, by step."""
    return sorted(directory.glob("step_*/manifest.json"))


def _read_manifest(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the step and the metadata of a checkpoint. Raises UserError for another file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        meta = content["meta"]
        _row_of_ledger(content["step"], meta["ledger"])
        return content["step"], meta
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the manifest of a checkpoint ({error!r}); remove that checkpoint") from error


def _row_of_ledger(step: int, ledger: Mapping[str, Any]) -> Row:
    """Return what a log would have of `step`, from the accounts of the stage and of its chain in a checkpoint."""
    stage, total = ledger["stage"], ledger["total"]
    return {
        "step": step,
        "own": stage,
        "tokens": stage["tokens"],
        "flops": stage["flops"],
        "total_tokens": total["tokens"],
        "total_flops": total["flops"],
        "active_parameter_tokens": total["active_parameter_tokens"],
        "total_sparse_flops": total.get("sparse_flops"),
        "cost_elsewhere": total.get("cost_elsewhere"),
    }


def checkpoint_row(path: Path, step: int, meta: Mapping[str, Any], domains: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of `runs_table` for the checkpoint at `path` with held-out results `domains`.

    `meta`: the metadata of its manifest. What the run's own files say is used where they are there; a checkpoint that
    was copied out of its run has a row all the same.
    """
    stages, name = meta["recipe"]["stages"], meta["lineage"]["stage"]
    index = [stage["name"] for stage in stages].index(name)
    directory = _run_of(path)
    run = RunData(directory, meta["recipe"], [StageData(s["name"], directory / s["name"], s) for s in stages], [])
    if (directory / "recipe.json").is_file():
        found = read_run(directory)
        if [stage.name for stage in found.stages] == [stage.name for stage in run.stages]:
            run = found
    row = _table_row(run, index, {**_row_of_ledger(step, meta["ledger"]), "domains": domains})
    if (quantized := meta.get("quantized")) is not None:
        row |= {"P": quantized["bits"], "effective_bits": quantized["effective_bits"]}
        row["quantization"] = quantized["method"]
        row |= {"N": quantized["parameters"], "N_non_embedding": quantized["non_embedding_parameters"]}
    return row


def _run_of(checkpoint: Path) -> Path:
    """Return the run that a checkpoint is in, or the directory that `grow`, `merge` or `convert` wrote."""
    if checkpoint.absolute().parent.name != "checkpoints":
        return checkpoint.parent
    return (checkpoint if len(checkpoint.parts) > 3 else checkpoint.absolute()).parents[2]


def to_columns(rows: list[dict[str, Any]]) -> Table:
    """Return rows as columns: texts as objects, numbers as float64 with NaN for unknown ones."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _to_column([row.get(name) for row in rows]) for name in names}


def filled_columns(table: Table) -> Table:
    """Return the columns that some row fills, and those by which a table of ours is recognized."""
    return {name: column for name, column in table.items() if name in OWN_COLUMNS or not _is_empty(column)}


def _is_empty(column: np.ndarray) -> bool:
    return all(value in (None, "") or (isinstance(value, float) and np.isnan(value)) for value in column.tolist())


def to_rows(table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table, with None where a value is unknown; what `to_columns` made of such rows."""
    columns = {
        name: [None if isinstance(value, float) and np.isnan(value) else value for value in column.tolist()]
        for name, column in table.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _recipe_columns(stage: StageData) -> dict[str, Any]:
    recipe = stage.recipe
    optimizer, data = recipe.get("optimizer", {}), recipe.get("data", {})
    batch = recipe.get("batch_size")
    return {
        "corpus": _corpus_name(data),
        "vocab_size": recipe.get("model", {}).get("vocab_size"),
        "start": (recipe.get("start") or {}).get("kind", ""),
        "optimizer": optimizer.get("kind", ""),
        "schedule": (optimizer.get("schedule") or {}).get("kind", ""),
        "lr": optimizer.get("learning_rate"),
        # A ramp of batch sizes is not a single number.
        "B": batch * data["seq_len"] if isinstance(batch, int) and "seq_len" in data else None,
    }


def _corpus_name(data: Mapping[str, Any]) -> str:
    """Return the corpus by its directory and the beginning of its fingerprint, which knows its tokenizer."""
    name, fingerprint = Path(str(data.get("corpus", ""))).name, data.get("fingerprint")
    return f"{name}@{fingerprint[:6]}" if fingerprint else name


def _size_columns(stage: StageData, row: Row, before: list[StageData]) -> dict[str, Any]:
    N = _parameter_count(stage, row)
    model = stage.recipe.get("model", {})
    embedding_parameters = (
        model.get("vocab_size", 0) * model.get("d_model", 0) * (1 if model.get("tie_embeddings") else 2)
    )
    elsewhere = row.get("cost_elsewhere")
    is_known = elsewhere != "unknown"
    D = row.get("total_tokens", row.get("tokens")) if is_known else None
    return {
        "N": N,
        "N_non_embedding": stage.summary.get("model", {}).get(
            "non_embedding_parameters", N - embedding_parameters if N else None
        ),
        "N_active": row.get("active_parameters"),
        # The log counts active parameters over the whole chain, as it does total tokens.
        "N_average": row["active_parameter_tokens"] / D if D and "active_parameter_tokens" in row else None,
        "D": D,
        "U": _unique_tokens(stage, before, D),
        "C": row.get("total_flops", row.get("flops")) if is_known else None,
        "C_sparse": row.get("total_sparse_flops") if is_known else None,
        "cost_elsewhere": elsewhere or "",
        "D_stage": row.get("tokens"),
        "C_stage": row.get("flops"),
    }


def _parameter_count(stage: StageData, row: Row) -> float | None:
    """Return the stage's parameters, from its summary, its ledger, or a log row of a first stage."""
    if parameters := stage.summary.get("model", {}).get("parameters"):
        return float(parameters)
    if stage.recipe.get("pruning"):
        return None  # the active parameters are not all of them
    stage_ledger = row.get("own") or stage.ledger.get("stage")
    if not stage_ledger and row.get("tokens") == row.get("total_tokens"):
        stage_ledger = row
    return (
        stage_ledger["active_parameter_tokens"] / stage_ledger["tokens"]
        if stage_ledger and stage_ledger.get("tokens")
        else None
    )


def _unique_tokens(stage: StageData, before: list[StageData], D: float | None) -> float | None:
    """Return the tokens, at most those of the corpus, which a chain reads continuously; None for several corpora."""
    corpora = {s.recipe.get("data", {}).get("fingerprint") for s in (*before, stage)}
    corpus_tokens = stage.ledger.get("corpus_tokens")
    return min(D, corpus_tokens) if D and corpus_tokens and len(corpora) == 1 else None


def loss_columns(domains: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of held-out results by domain: L, loss_NAME and bits_NAME."""
    tokens = sum(result.get("tokens", 0) for result in domains.values())
    nll = sum(result.get("nll", np.nan) for result in domains.values())
    return {
        "L": nll / tokens if tokens else None,
        **{f"loss_{name}": result.get("loss") for name, result in domains.items()},
        # Bits per byte of a tokenizer that loses text are not a code length, so no law may be fitted to them.
        **{
            f"bits_{name}": None if result.get("lossy") else result.get("bits_per_byte")
            for name, result in domains.items()
        },
    }


def _train_loss(stage: StageData, step: int) -> float | None:
    """Return the last training loss that is logged up to a step."""
    losses = [row["loss"] for row in stage.rows_of_kind("train") if row["step"] <= step and "loss" in row]
    return losses[-1] if losses else None


def _to_column(values: list[Any]) -> np.ndarray:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    return np.array([np.nan if value is None else float(value) for value in values])
