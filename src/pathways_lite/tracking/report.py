"""The report of a run: one self-contained HTML page, whether the run is finished, in progress or interrupted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.ledger import Ledger
from pathways_lite.provenance import describe_provenance
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_history import last_start, read_history
from pathways_lite.tracking.formatting import COST_NOTES, duration, fixed, held_out_note, si, total_cost
from pathways_lite.tracking.page import escape, page, paragraph, picture, section, table
from pathways_lite.tracking.plots import curves_svg, save_curves, speed_svg
from pathways_lite.tracking.run_data import NOT_COMPARABLE, RunData, StageData, read_run
from pathways_lite.tracking.statistics_plots import statistics_svg
from pathways_lite.tracking.task_results import tasks_section
from pathways_lite.tracking.token_page import PAGE_NAME


def write_report(run_directory: str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run to `path`, by default `report.html` in its directory, and return its path.

    Raises UserError if the directory is not a run.
    """
    run = read_run(run_directory)
    path = Path(path) if path is not None else RunDirectory(run.directory).report
    write_text_atomically(path, render(run), shared=True)
    return path


def render(run: RunData) -> str:
    """Render the page as HTML. All text of the run is escaped; nothing outside the page is loaded."""
    sections = (
        _header_section,
        _results_section,
        tasks_section,
        _curves_section,
        _statistics_section,
        _samples_section,
        _cost_section,
        _events_section,
        _recipe_section,
        _origin_section,
        _problems_section,
    )
    return page(f"{run.title}: pathways_lite run", "".join(make_section(run) for make_section in sections))


def _header_section(run: RunData) -> str:
    last = next((stage for stage in reversed(run.stages) if stage.has_begun), None)
    if last is None:
        state = "Not started."
    elif run.is_finished:
        state = "Finished."
    else:
        step = max([row["step"] for row in (*last.rows, *last.timings)], default=0)
        state = f"Not finished: stage {last.name} was at step {step:,} when this page was written."
    model = run.latest_summary("model") or {}
    facts = [f"{si(model['parameters'])} parameters"] if "parameters" in model else []
    tokens, flops = (sum(stage.last_counts.get(name, 0) for stage in run.stages) for name in ("tokens", "flops"))
    facts += [f"{si(tokens)} training tokens", si(flops, "FLOPs")] if tokens else []
    lead = f"{state} {', '.join(facts)}." if facts else state
    return f"<header>\n<h1>{escape(run.title)}</h1>\n{paragraph(lead, 'lead')}\n</header>\n"


# ---- held-out results ----


def _results_section(run: RunData) -> str:
    stage = next((stage for stage in reversed(run.stages) if stage.evaluation), None)
    if stage is None:
        return ""
    results = stage.evaluation
    baselines: Mapping[str, Mapping[str, float]] = run.compressors_of(stage)
    names = list(dict.fromkeys(name for domain in results for name in baselines.get(domain, {})))
    rows = [_result_row(domain, result, baselines.get(domain, {}), names) for domain, result in results.items()]
    rows += [
        _result_row(f"{domain}, average of parameters", result, {}, names)
        for domain, result in stage.average_evaluation.items()
    ]
    combined = _combined_results(results, baselines)
    if combined:
        rows.append(_result_row("all", *combined, names))
    header = ["domain", "loss (nats/token)", "perplexity", "bits per byte", *names]
    caption = f"Stage {stage.name}, held-out documents."
    if note := held_out_note(results.values()):
        caption += f" {note}"
    if names:
        caption += " Compressors: bits per byte of the same text."
    if few := [f"{name} {result['documents']}" for name, result in results.items() if _is_thin(result)]:
        caption += f" Few documents, so other text may give other results: {', '.join(few)}."
    verdicts = [_verdict(domain, result, baselines.get(domain, {})) for domain, result in results.items()]
    if combined and "xz -9" in combined[1]:
        verdicts.append(_verdict("all held-out text together", *combined))
    return section(
        "How well it predicts",
        *(paragraph(verdict, "verdict") for verdict in verdicts if verdict),
        table(header, rows, caption=caption, total=bool(combined)),
        paragraph(
            "Bits per byte count every held-out token once, including the ends of documents. A compressor sees nothing "
            "but this text; the model has seen its training text before, and its own size is not counted.",
            "note",
        )
        if names
        else "",
        _denoisers_table(stage),
    )


_DENOISER_LOSSES = ("loss", "content_loss", "format_loss")


def _denoisers_table(stage: StageData) -> str:
    """Render a table of the losses of the objective's denoisers, if it has any."""
    denoisers = stage.denoisers
    if not denoisers:
        return ""
    rows = [
        [name, *(fixed(result.get(key), 4) for key in _DENOISER_LOSSES), f"{result.get('tokens', 0):,}"]
        for name, result in denoisers.items()
    ]
    header = ["denoiser", "loss (nats per target token)", "of text", "of special tokens", "target tokens"]
    return table(header, rows, caption=f"Stage {stage.name}, held-out text. {NOT_COMPARABLE}")


def _result_row(domain: str, result: Mapping[str, Any], baseline: Mapping[str, float], names: list[str]) -> list[str]:
    digits = {"loss": 4, "perplexity": 2, "bits_per_byte": 4}
    values = [fixed(result.get(name), n_digits) for name, n_digits in digits.items()]
    values[-1] += "*" if result.get("lossy") else ""
    return [domain, *values, *(fixed(baseline.get(name), 4) for name in names)]


def _combined_results(
    results: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, float]] | None:
    """Combine all domains into one text by their sums; None for a single domain or if sums are missing."""
    if len(results) < 2 or not all(result.get("bytes") and "nll" in result for result in results.values()):
        return None
    nll, tokens, size = (sum(result[name] for result in results.values()) for name in ("nll", "tokens", "bytes"))
    loss = nll / tokens
    model_result = {"loss": loss, "perplexity": math.exp(min(loss, 700)), "bits_per_byte": nll / (math.log(2) * size)}
    if any(result.get("lossy") for result in results.values()):
        model_result["lossy"] = True
    compressors = set.intersection(*(set(baselines.get(domain, {})) for domain in results))
    baseline_result = {
        name: sum(baselines[domain][name] * result["bytes"] for domain, result in results.items()) / size
        for name in compressors
    }
    return model_result, baseline_result


_FEW_DOCUMENTS = 5


def _is_thin(result: Mapping[str, Any]) -> bool:
    """Return whether a held-out result is of so few documents that others might give another one."""
    return bool(result.get("bytes")) and 0 < result.get("documents", _FEW_DOCUMENTS) < _FEW_DOCUMENTS


def _verdict(text_name: str, result: Mapping[str, Any], baseline: Mapping[str, float]) -> str:
    """Say in a sentence whether the model beats xz; empty if one of the two numbers is missing."""
    bits, xz = result.get("bits_per_byte"), baseline.get("xz -9")
    if bits is None or xz is None or not math.isfinite(bits) or result.get("lossy"):
        return ""
    difference = abs(1 - bits / xz)
    bits_against_xz = f"{bits:.3f} against {xz:.3f} bits per byte"
    if _is_thin(result):
        count = f"{result['documents']} document{'' if result['documents'] == 1 else 's'}"
        text_name = f"{text_name} ({count} only, {si(result['bytes'], 'B')})"
    if bits < xz:
        return f"On {text_name} the model beats xz -9: {bits_against_xz}, {difference:.1%} less."
    return f"On {text_name} the model does not beat xz -9: {bits_against_xz}, {difference:.1%} more."


# ---- curves and samples ----


def _curves_section(run: RunData) -> str:
    if not any(stage.rows for stage in run.stages):
        return ""
    alt = "Training loss, held-out bits per byte per domain, and learning rate, against training tokens"
    caption = "Against training tokens (bottom axis) and model FLOPs (top axis), over all stages."
    if any(stage.tasks for stage in run.stages):
        caption += " Tasks: accuracy, with chance as a horizontal line."
    if run.latest_summary("compressors"):
        caption += " Horizontal lines: xz -9 on the same held-out text."
    figure = picture(curves_svg(run, "light"), curves_svg(run, "dark"), alt=alt, caption=caption)
    return section("How it learned", figure)


def _statistics_section(run: RunData) -> str:
    alt = "Heat maps, layers by steps: norms of gradients and relative updates, sizes of activations"
    caption = (
        "By layer, from the bottom, and step; colors are logarithmic. Gradients are those before clipping. Empty: not "
        "trained. Attention logits are of 64 queries per sequence."
    )
    figures = []
    for stage in run.stages:
        light, dark = statistics_svg(stage, "light"), statistics_svg(stage, "dark")
        if light and dark:
            name = f"Stage {stage.name}. " if len(run.stages) > 1 else ""
            figures.append(picture(light, dark, alt=alt, caption=f"{name}{caption}"))
    return section("Layer by layer", *figures)


def _samples_section(run: RunData) -> str:
    blocks = []
    stage = run.latest_stage_with("samples")
    for sample in stage.summary["samples"] if stage is not None else ():
        settings = ", ".join(f"{name} {value}" for name, value in sample.items() if name not in ("prompt", "text"))
        blocks.append(paragraph(settings, "note") if settings else "")
        prompt = f'<span class="prompt">{escape(str(sample.get("prompt", "")))}</span>'
        # HTML drops a newline directly after <pre>, so add one for it to drop.
        blocks.append(f"<pre>\n{prompt}{escape(str(sample.get('text', '')))}</pre>")
    pages = [
        f'<a href="{escape(quote(f"{stage.name}/{PAGE_NAME}"))}">of stage {escape(stage.name)}</a>'
        for stage in run.stages
        if (stage.directory / PAGE_NAME).is_file()
    ]
    links = f"<p>Held-out text with the loss of each token in color: {', '.join(pages)}.</p>" if pages else ""
    return section(
        "Samples" if blocks else "Held-out text",
        links,
        paragraph(f"Prompts are bold and end at the bar. {_origin_of_samples(run, stage)}", "note") if stage else "",
        *blocks,
    )


def _origin_of_samples(run: RunData, stage: StageData) -> str:
    """Say which model wrote the samples, and which stages after it wrote none."""
    said = f"Written after step {stage.summary.get('step', 0):,} of stage {stage.name}."
    begun = [later.name for later in run.stages[run.stages.index(stage) + 1 :] if later.has_begun]
    return f"{said} Nothing was written after {', '.join(begun)}." if begun else said


# ---- cost ----


def _cost_section(run: RunData) -> str:
    stages = [(stage, Ledger.from_json(stage.ledger["stage"])) for stage in run.stages if stage.ledger.get("stage")]
    light, dark = speed_svg(run, "light"), speed_svg(run, "dark")
    alt, caption = (
        "Tokens per second against running time",
        "Speed of training; bars mark compiling, evaluating and saving.",
    )
    return section(
        "What it cost",
        *_ledger_tables(stages),
        paragraph(_speed_sentences(stages, run.latest_summary("peak_flops"))) if stages else "",
        picture(light, dark, alt=alt, caption=caption) if light and dark else "",
    )


def _ledger_tables(stages: list[tuple[StageData, Ledger]]) -> list[str]:
    """Render the ledgers as two tables: reproducible counts, and times."""
    if not stages:
        return []
    ledgers = {stage.name: ledger for stage, ledger in stages}
    total = stages[-1][0].ledger.get("total")
    chain = Ledger() if total is None else Ledger.from_json(total)
    several = total is not None and (len(ledgers) > 1 or chain.cost_elsewhere is not None)
    if several:
        ledgers["chain"] = chain
    counts = [
        [name, f"{x.steps:,}", f"{x.tokens:,}", total_cost(x.flops, x.cost_elsewhere, "FLOPs")]
        for name, x in ledgers.items()
    ]
    kinds = ("train", "compile", "evaluate", "save", "other")
    times = [
        [name, *(duration(getattr(x.seconds, kind)) for kind in (*kinds, "total")), f"{x.seconds.goodput:.1%}"]
        for name, x in ledgers.items()
    ]
    header = ["stage", "training", "compiling", "evaluating", "saving", "other", "total", "goodput"]
    caption = "Running time. Goodput: share of the time spent training."
    note = "" if chain.cost_elsewhere is None else paragraph(COST_NOTES[chain.cost_elsewhere], "note")
    return [
        table(["stage", "steps", "tokens", "model FLOPs"], counts, total=several),
        note,
        table(header, times, caption=caption, total=several),
    ]


def _speed_sentences(stages: list[tuple[StageData, Ledger]], peak: float | None) -> str:
    sentences = []
    for stage, ledger in stages:
        seconds = ledger.seconds.train
        if seconds > 0:
            rate = ledger.flops / seconds
            share_of_peak = f", {rate / peak:.0%} of the machine's matmul peak of {si(peak, 'FLOP/s')}" if peak else ""
            speed = f"{ledger.tokens / seconds:,.0f} tokens/s and {si(rate, 'FLOP/s')}"
            sentences.append(f"While training, {stage.name} ran at {speed}{share_of_peak}.")
    return " ".join(sentences)


# ---- events, recipe, origin ----


def _events_section(run: RunData) -> str:
    rows = []
    for stage in run.stages:
        events = [row for row in (*stage.rows, *stage.timings) if row["kind"] == "event"]
        for row in sorted(events, key=lambda row: row["step"]):
            details = {k: v for k, v in row.items() if k not in ("kind", "step", "event", "seconds")}
            text = ", ".join(f"{name}: {value}" for name, value in details.items())
            rows.append([stage.name, f"{row['step']:,}", str(row.get("event", "")), text])
    return section("Events", table(["stage", "step", "event", "details"], rows, text=True) if rows else "")


_OPTIONS = {
    "ema": "average of the parameters",
    "pruning": "pruned",
    "reweighting": "samples weighted",
    "domain_weights": "learns domain weights",
    "early_stopping": "may stop early",
}
"""What a stage has besides, by field."""


def _recipe_section(run: RunData) -> str:
    rows = []
    for stage in run.recipe.get("stages", []):
        model, data, optimizer = (stage.get(key, {}) for key in ("model", "data", "optimizer"))
        facts = [
            f"start: {stage['start']['kind']}" if stage.get("start") else "",
            f"{model.get('n_layers')} layers of width {model.get('d_model')}" if model else "",
            f"sequences of {data.get('seq_len')} tokens" if data else "",
            "shorter in a warm-up" if data.get("seq_len_warmup") else "",
            f"{stage['batch_size']} per step" if isinstance(stage.get("batch_size"), int) else "",
            _optimizer_fact(optimizer),
            f"{', '.join(stage['freeze'])} frozen" if stage.get("freeze") else "",
            f"{len(optimizer['groups'])} groups of parameters" if optimizer.get("groups") else "",
            *(words for name, words in _OPTIONS.items() if stage.get(name)),
            f"for {stage['budget']['n']:,} {stage['budget']['kind']}" if stage.get("budget") else "",
        ]
        rows.append([str(stage.get("name", "")), ", ".join(filter(None, facts))])
    if not rows:
        return ""
    text = escape(json.dumps(run.recipe, indent=2, ensure_ascii=False))
    full = f"<details><summary>The whole resolved recipe</summary>\n<pre>\n{text}</pre></details>"
    return section("Recipe", table(["", ""], rows, text=True), full)


def _optimizer_fact(optimizer: Mapping[str, Any]) -> str:
    kind, rate = optimizer.get("kind", ""), optimizer.get("learning_rate")
    return f"{kind} at {rate:.4g}" if kind and isinstance(rate, float | int) else str(kind)


def _origin_section(run: RunData) -> str:
    command, environment = run.latest_summary("command"), run.latest_summary("environment") or {}
    start = last_start(read_history(run.directory))
    if start is None:  # a run of an earlier version
        rows = [[str(name), str(value)] for name, value in environment.items()]
    else:
        rows = [[name, text] for name, text in describe_provenance(start) if name != "command"]
    return section(
        "How to reproduce it",
        f"<pre>\n{escape(str(command))}</pre>" if command else "",
        table(["", ""], rows, text=True) if rows else "",
        _file_links(run),
    )


def _file_links(run: RunData) -> str:
    """Render links to the run's files relative to the page; checkpoints are linked as folders."""
    paths = [path for folder in (run.directory, *(s.directory for s in run.stages)) for path in _list_files(folder)]
    if not paths:
        return ""
    links = []
    for path in paths:
        name = path.relative_to(run.directory).as_posix() + ("/" if path.is_dir() else "")
        links.append(f'<a href="{escape(quote(name))}">{escape(name)}</a>')
    return "<p>Files: " + ", ".join(links) + "</p>"


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = (path for path in folder.iterdir() if not (path / "log.jsonl").exists())
    return sorted(path for path in paths if path.suffix != ".html" and not path.name.startswith("."))


def _problems_section(run: RunData) -> str:
    return section("Files that could not be read", *(paragraph(problem) for problem in run.problems))


def write_pages(run_directory: str | Path) -> list[Path]:
    """Write the page and the loss curves of a run, and return their paths. Raises UserError if there is no run."""
    directory = Path(run_directory)
    curves = [directory / "loss.png", directory / "loss.svg"]
    save_curves(read_run(directory), *curves)
    return [write_report(directory), *curves]
