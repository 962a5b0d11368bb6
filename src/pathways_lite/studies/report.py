"""The report of a study: one self-contained HTML page with figures, also while nodes are not trained yet."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.comparison.benchmarks import normalized_perplexity
from pathways_lite.comparison.compare import ONE_EVALUATION, Arm, Comparison
from pathways_lite.comparison.curves import CLOCKS, domain_value, read_curve
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results, cost_notes, flops_name, format_signed, unequal_budgets
from pathways_lite.errors import UserError
from pathways_lite.intervals import LEVEL
from pathways_lite.ledger import CostElsewhere, Ledger, least_known
from pathways_lite.studies.executor import train_arguments
from pathways_lite.studies.figures import (
    LINEAGE,
    StudyFigure,
    difference_figure,
    lineage_figure,
    loss_figures,
    write_csv,
)
from pathways_lite.studies.measures import Measured, corrected_sentence, criterion_sentences, read_measures
from pathways_lite.studies.plan import StudyPlan
from pathways_lite.studies.store import State
from pathways_lite.studies.study import node_chain
from pathways_lite.tracking.formatting import duration, si
from pathways_lite.tracking.page import escape, page, paragraph, picture, section, table
from pathways_lite.tracking.plot_style import save_figure, style, to_svg
from pathways_lite.tracking.run_data import RunData, read_run


@dataclass(frozen=True)
class Findings:
    """The contents of a report."""

    plan: StudyPlan
    command: Sequence[str]  # the study's file, overrides and --out, as typed after `study COMMAND`
    runs: dict[str, RunData]  # finished recipes by label
    arms: list[Arm]  # with at least one finished run
    results: Results | None  # None if nothing can be compared yet
    by_domain: dict[str, Results]  # by domain of held-out text; empty if `results` is None
    problems: list[str]
    measured: list[Measured] = field(default_factory=list)
    options: Sequence[str] = ()  # of `study report` alone

    @property
    def costs_elsewhere(self) -> dict[str, CostElsewhere | None]:
        """What is known of training elsewhere that each node with a checkpoint, or its ancestors, started from."""
        ledgers = {identity: self.plan.store.stage_directory(identity).ledger for identity in self.plan.nodes}
        return {
            identity: Ledger.from_json(ledger["total"]).cost_elsewhere
            for identity, ledger in ledgers.items()
            if ledger and "total" in ledger
        }

    @property
    def states(self) -> dict[str, State]:
        return {identity: planned.state for identity, planned in self.plan.nodes.items()}


def write_report(findings: Findings, more: str = "") -> list[Path]:
    """Write report.html, results.csv and figures into the study's directory, and return their paths.

    `more` is HTML that follows the results.
    """
    out = findings.plan.store.path
    (out / "figures").mkdir(parents=True, exist_ok=True)
    pictures = _figures(findings)
    paths = [out / "report.html", out / "results.csv"]
    for name in {LINEAGE, *(f"loss_{clock}" for clock in CLOCKS)} - {item.name for item in pictures}:
        for suffix in ("png", "svg"):  # of an earlier report
            (out / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)
    write_text_atomically(paths[0], render(findings, pictures, more), shared=True)
    write_csv(paths[1], findings.results, findings.by_domain, findings.measured)
    with style("light") as palette:
        for item in pictures:
            figure = item.draw(palette)
            for suffix in ("png", "svg"):
                paths.append(out / "figures" / f"{item.name}.{suffix}")
                save_figure(figure, paths[-1])
    return paths


def gather_findings(plan: StudyPlan, command: Sequence[str], options: Sequence[str] = ()) -> Findings:
    """Read all finished runs of the study and compare them."""
    study, store = plan.study, plan.store
    last = {label: identity for identity, node in store.nodes.items() for label in node.is_last}
    done = {label: identity for label, identity in last.items() if plan.nodes[identity].state == "done"}
    runs = {label: read_run(store.run_directory(identity).path) for label, identity in done.items()}
    arms = _arms(plan, runs, study.metric)
    problems = [problem for run in runs.values() for problem in run.problems]
    results, by_domain = None, {}
    if any(arm.name == study.baseline for arm in arms):
        try:
            results = Results.compare_arms(arms, study.baseline, study.metric, study.target)
            for domain in _held_out_domains(runs):
                metric = Metric(domain=domain, flops=study.metric.flops)
                by_domain[domain] = Results.compare_arms(_arms(plan, runs, metric), study.baseline, metric)
        except UserError as error:
            problems.append(str(error))
    return Findings(plan, command, runs, arms, results, by_domain, problems, read_measures(study, store), options)


def _held_out_domains(runs: Mapping[str, RunData]) -> list[str]:
    """Return the domains of the runs' held-out text."""
    return list(dict.fromkeys(name for run in runs.values() for name in run.stages[-1].evaluation))


def _arms(plan: StudyPlan, runs: dict[str, RunData], metric: Metric) -> list[Arm]:
    labels = iter(plan.study.recipes)
    arms = []
    for name, recipes in plan.study.arms.items():
        finished = [label for label in (next(labels) for _ in recipes) if label in runs]
        if finished:
            arms.append(Arm(name, tuple(read_curve(runs[label], metric, label) for label in finished)))
    return arms


def _figures(findings: Findings) -> list[StudyFigure]:
    plan = findings.plan
    flops = {identity: planned.flops for identity, planned in plan.nodes.items()}
    elsewhere = findings.costs_elsewhere
    metric, comparisons = plan.study.metric, findings.results.comparisons if findings.results else []
    differences = [difference_figure(comparisons, metric)] if comparisons else []
    curves = loss_figures(findings.arms, metric) if findings.arms else []
    lineage = lineage_figure(plan.store.nodes, findings.states, flops, elsewhere)
    return [*differences, *curves, *([lineage] if lineage is not None else [])]


def render(findings: Findings, pictures: Sequence[StudyFigure], more: str = "") -> str:
    """Render the page as HTML. All text of the study is escaped; nothing outside the page is loaded."""
    results = [item for item in pictures if item.name != LINEAGE]
    lineage = [_render_figure(item) for item in pictures if item.name == LINEAGE]
    sections = [
        _header_section(findings),
        _results_section(findings),
        more,
        section("Loss against cost", *map(_render_figure, results), _no_curves(findings)),
        _measures_section(findings),
        _domains_section(findings),
        _time_section(findings),
        _cost_section(findings),
        section("Lineage", *(lineage or [paragraph(_unrelated(findings))]), _node_links(findings)),
        _failures_section(findings),
        _commands_section(findings),
        section("Files that could not be read", *map(paragraph, findings.problems)),
    ]
    return page(f"{findings.plan.study.name}: pathways_lite study", "".join(sections))


def _no_curves(findings: Findings) -> str:
    """Say why there are no curves where runs are finished, but each has a single evaluation."""
    curves = [curve for arm in findings.arms for curve in arm.curves]
    if not curves or any(len(curve.loss) > 1 for curve in curves):
        return ""
    return paragraph(f"There are no curves of the loss: {ONE_EVALUATION} to fewer steps than a run has.", "note")


def _render_figure(item: StudyFigure) -> str:
    svgs = []
    for theme in ("light", "dark"):
        with style(theme) as palette:
            svgs.append(to_svg(item.draw(palette)))
    return picture(*svgs, alt=item.alt, caption=f"{item.title}. {item.caption}")


def _header_section(findings: Findings) -> str:
    study, nodes = findings.plan.study, findings.plan.nodes
    done = sum(planned.state == "done" for planned in nodes.values())
    state = "Finished." if done == len(nodes) else f"Not finished: {done} of {len(nodes)} nodes are done."
    arms = ", ".join(f"{name} ({len(recipes)})" for name, recipes in study.arms.items())
    lead = f"{state} Arms (number of runs): {arms}. The baseline is {study.baseline}."
    paragraphs = f"{paragraph(study.question)}\n{paragraph(lead, 'lead')}"
    return f"<header>\n<h1>{escape(study.name)}</h1>\n{paragraphs}\n</header>\n"


# ---- results ----


def _results_section(findings: Findings) -> str:
    results = findings.results
    if results is None:
        message = f"Nothing can be compared yet: no run of {findings.plan.study.baseline} is finished."
        return section("Results", paragraph(message, "verdict"))
    missing = len(findings.plan.study.recipes) - len(findings.runs)
    return section(
        "Results",
        *(paragraph(verdict(comparison, results.arms), "verdict") for comparison in results.comparisons),
        *(paragraph(note, "verdict") for note in cost_notes(results.arms)),
        paragraph(f"{missing} unfinished runs are not included.", "note") if missing else "",
        table(results.header, results.rows()),
        *(paragraph(note, "note") for note in results.notes() if note not in cost_notes(results.arms)),
    )


def verdict(c: Comparison, arms: Sequence[Arm]) -> str:
    """State the answer, and where budgets differ how far it goes. `arms`: of the study."""
    return " ".join(filter(None, (verdict_sentence(c), unequal_budgets(c, arms))))


def verdict_sentence(c: Comparison) -> str:
    """State the answer in a sentence, by Student's t interval, and by Holm's correction for many comparisons."""
    interval = c.t_interval
    interval_name = f"{LEVEL:.0%} interval by Student's t"
    direction = "lower" if c.difference.value < 0 else "higher"
    amount = f"{abs(c.difference.value):.4f} {direction}"
    claim = f"At {si(c.flops, flops_name(c))} the loss of {c.arm} is {amount} than that of {c.baseline}"
    if math.isnan(interval.low):
        return f"{claim}, with one run each, so it is unknown whether other seeds would give the same result."
    if interval.low <= 0 <= interval.high:
        within = f"zero is within the {interval_name}, {format_signed(interval)}"
        return f"{claim}, but {within}: these runs do not decide the question."
    if c.p_holm is not None and c.p_holm >= 1 - LEVEL:
        return (
            f"{claim}; zero is outside the {interval_name}, {format_signed(interval)}, but not after Holm's correction "
            f"for {c.comparisons} comparisons (p = {c.p_holm:.2g}): these runs do not decide the question."
        )
    return f"{claim}; zero is outside the {interval_name}, {format_signed(interval)}."


def _measures_section(findings: Findings) -> str:
    study = findings.plan.study
    if not study.measured:
        return ""
    in_order = sorted(findings.measured, key=lambda m: study.measured.index(m.measure))
    rows = [[m.measure, m.arm, str(m.runs), format_signed(m.value), *_compared(m)] for m in in_order]
    note = (
        "Of final checkpoints, as `pathways-lite study evaluate` found them; means over seeds, differences over the "
        f"seeds that both have, with {LEVEL:.0%} intervals by Student's t."
    )
    if not rows:
        note = "Nothing is measured yet; `pathways-lite study evaluate` does it."
    header = ["measure", "arm", "runs", "value", "compared with", "difference"]
    return section(
        "Measures",
        *(paragraph(sentence, "verdict") for sentence in criterion_sentences(study, findings.measured)),
        table(header, rows) if rows else "",
        paragraph(note, "note"),
        *([paragraph(sentence, "note")] if (sentence := corrected_sentence(findings.measured)) else []),
    )


def _compared(m: Measured) -> tuple[str, str]:
    """Return the baseline and the difference from it, as in the table."""
    if m.arm == m.baseline:
        return "baseline", ""
    return m.baseline, "" if m.difference is None else format_signed(m.difference)


def _domains_section(findings: Findings) -> str:
    if not findings.runs:
        return ""
    names = _held_out_domains(findings.runs)
    rows = [
        _domain_row(findings, name, arm)
        for name in names
        for arm in (findings.results.arms if findings.results else findings.arms)
    ]
    caption = "Held-out text at the end of each run, means over seeds. Difference: from the baseline at equal FLOPs."
    header = ["domain", "arm", "loss", "difference", "bits per byte", "perplexity per byte"]
    note = (
        "Perplexity per byte is Languini's normalized perplexity, exp(nats / bytes of text); like bits per byte, it "
        "does not depend on the tokenizer. *: it is not a code length where the tokenizer loses text."
    )
    return section("By domain", table(header, rows, caption=caption), paragraph(note, "note"))


def _domain_row(findings: Findings, domain: str, arm: Arm) -> list[str]:
    metric = Metric(domain=domain)
    results = [findings.runs[curve.name].stages[-1].evaluation for curve in arm.curves]
    loss = statistics.fmean(domain_value(result, metric) for result in results)
    bits = statistics.fmean(result[domain]["bits_per_byte"] for result in results)
    mark = "*" if any(result[domain].get("lossy") for result in results) else ""
    perplexity = statistics.fmean(
        normalized_perplexity(result[domain]["nll"], result[domain]["bytes"]) for result in results
    )
    difference = _format_difference(findings, domain, arm.name)
    return [domain, arm.name, f"{loss:.4f}", difference, f"{bits:.4f}{mark}", f"{perplexity:.4f}{mark}"]


def _format_difference(findings: Findings, domain: str, arm: str) -> str:
    if arm == findings.plan.study.baseline:
        return "baseline"
    comparisons = findings.by_domain[domain].comparisons if domain in findings.by_domain else []
    return next((format_signed(c.difference, "\n") for c in comparisons if c.arm == arm), "")


def _time_section(findings: Findings) -> str:
    results = findings.results
    if results is None or not (rows := results.time_rows()):
        return ""
    note = (
        "The targets are those of the table of results. Time is the median over runs, without compiling, evaluating "
        "and saving, on the machine that trained them. The score is the area under AlgoPerf's performance profile up "
        "to four times the faster arm's time, here of an arm and the baseline over this one workload."
    )
    notes = [paragraph(text, "note") for text in (note, *results.time_notes())]
    return section("Time to the target", table(results.time_header, rows), *notes)


# ---- cost, lineage, failures ----


def _cost_section(findings: Findings) -> str:
    plan = findings.plan
    ledger_by_node = {
        identity: Ledger.from_json(ledgers["stage"])
        for identity in plan.nodes
        if (ledgers := plan.store.stage_directory(identity).ledger)
    }
    if not ledger_by_node:
        return ""
    costs_elsewhere = findings.costs_elsewhere
    rows = []
    for name, recipes in plan.study.arms.items():
        labels = {name} if len(recipes) == 1 else {f"{name}/{recipe.seed}" for recipe in recipes}
        last = [identity for identity, node in plan.store.nodes.items() if node.is_last & labels]
        chains = [
            [ledger_by_node.get(n.identity, Ledger()) for n in node_chain(plan.store.nodes, identity)]
            for identity in last
        ]
        spent = sum((sum(ledgers, Ledger()) for ledgers in chains), Ledger())
        elsewhere = least_known(costs_elsewhere.get(identity) for identity in last)
        rows.append(_ledger_row(name, replace(spent, cost_elsewhere=elsewhere)))
    total = replace(sum(ledger_by_node.values(), Ledger()), cost_elsewhere=least_known(costs_elsewhere.values()))
    rows.append(_ledger_row("total, each node once", total))
    header = ["arm", "steps", "tokens", "model FLOPs", "training", "running time"]
    caption = (
        "All runs of an arm with the stages that they started from. A shared stage counts for every run that has it."
    )
    if any(costs_elsewhere.values()):
        caption += " Not included is the training elsewhere of imported models, whose cost is unknown or was stated."
    return section("What it cost", table(header, rows, caption=caption, total=True))


def _ledger_row(name: str, ledger: Ledger) -> list[str]:
    times = (ledger.seconds.train, ledger.seconds.total)
    # Of nodes alone, so also what was stated is not in it.
    more = "" if ledger.cost_elsewhere is None else f" + {ledger.cost_elsewhere}"
    return [name, f"{ledger.steps:,}", si(ledger.tokens), si(ledger.flops) + more, *map(duration, times)]


def _node_links(findings: Findings) -> str:
    """Render links to the nodes' own pages."""
    links = []
    for identity, planned in findings.plan.nodes.items():
        label = escape(planned.node.label)
        report = findings.plan.store.run_directory(identity).report
        url = quote(report.relative_to(findings.plan.store.path).as_posix())
        links.append(f'<a href="{url}">{label}</a>' if report.exists() else label)
    return "<p>Pages of the nodes: " + ", ".join(links) + "</p>"


def _unrelated(findings: Findings) -> str:
    """Say how many times each node is trained where none starts from another."""
    return f"No stage starts from another one: all {len(findings.plan.nodes)} are trained from their own start."


def _failures_section(findings: Findings) -> str:
    store = findings.plan.store
    blocks = []
    for identity, state in findings.states.items():
        failure = store.failure(identity)
        label = f"{store.nodes[identity].label} ({identity})"
        if failure is not None and state != "done":
            blocks.append(paragraph(f"{label}: {failure.reason}. The end of its output:"))
            blocks.append(f"<pre>\n{escape(failure.tail)}</pre>")
        elif state == "held up":
            blocks.append(paragraph(f"{label} waits for a failed node ({store.nodes[identity].parent})."))
    return section("Failures", *blocks)


def _commands_section(findings: Findings) -> str:
    plan = findings.plan
    words = {"plan": (), "run": (), "report": findings.options}
    lines = [shlex.join(["pathways-lite", "study", name, *findings.command, *more]) for name, more in words.items()]
    nodes = [
        f"# {planned.node.label}\n"
        + shlex.join(["pathways-lite", *train_arguments(plan.store.run_directory(identity))])
        for identity, planned in plan.nodes.items()
    ]
    environment = next((run.latest_summary("environment") for run in findings.runs.values()), None) or {}
    rows = [[str(name), str(value)] for name, value in environment.items()]
    return section(
        "How to reproduce it",
        "<pre>\n" + escape("\n".join(lines)) + "</pre>",
        "<details><summary>Node by node</summary>\n<pre>\n" + escape("\n".join(nodes)) + "</pre></details>",
        table(["", ""], rows, text=True) if rows else "",
    )
