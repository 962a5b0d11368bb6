"""The page of repeated samples: curves, tables and how to reproduce them, in one self-contained file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.intervals import Interval
from pathways_lite.judging.beyond import Beyond
from pathways_lite.judging.coverage import mean_over_problems, problem_resamples
from pathways_lite.judging.judgement import BEST, COVERAGE, MAJORITY, WEIGHTED, Judgement, WeakJudgement
from pathways_lite.judging.plots import curves_svg, problems_svg, weak_svg
from pathways_lite.tracking.formatting import duration, si
from pathways_lite.tracking.page import escape, page, paragraph, picture, section, table

_SHOWN = 8
_MEANING = {
    COVERAGE: "some sample is correct (unbiased pass@k)",
    MAJORITY: "the commonest answer is correct",
    WEIGHTED: "the answer with the largest probability over its samples is correct",
    BEST: "the sample with the highest log probability is correct",
}


def write_report(judgement: Judgement, beyond: Beyond | None, manifest: Mapping[str, Any], path: Path) -> Path:
    """Write the page to `path`, and return it."""
    write_text_atomically(path, render(judgement, beyond, manifest), shared=True)
    return path


def render(judgement: Judgement, beyond: Beyond | None, manifest: Mapping[str, Any]) -> str:
    """Render the page as HTML. All text of the samples' manifest is escaped; nothing outside the page is loaded."""
    name = Path(str(manifest.get("problems", "problems"))).name
    parts = (
        f"<h1>{escape(f'Repeated samples of {name}')}</h1>" + paragraph(headline(judgement), "lead"),
        _curves_section(judgement, beyond),
        _domains_section(judgement),
        _beyond_section(beyond),
        _weak_section(judgement.weak),
        _problems_section(judgement),
        section(
            "Where it comes from", table(["", ""], account(manifest)), f"<pre>\n{escape(_settings(manifest))}</pre>"
        ),
    )
    return page(f"{name}: repeated samples", "".join(parts))


# ---- texts that the terminal and the page share ----


def headline(judgement: Judgement) -> str:
    """Return a sentence about the problems and their samples."""
    n = judgement.counts.samples
    each = f"{n.min():,}" if n.min() == n.max() else f"{n.min():,} to {n.max():,}"
    problems = len(n)
    return (
        f"{problems:,} {'problem' if problems == 1 else 'problems'}, {each} samples each; "
        f"{judgement.unsolved:.1%} of the problems have no correct sample."
    )


def percent(interval: Interval) -> str:
    """Format a share and its limits."""
    if not np.isfinite(interval.value):
        return "–"
    value, low, high = interval.texts(lambda share: f"{100 * share:.1f}")
    return f"{value} ({low}, {high})" if interval.has_limits else value


def shown_places(count: int) -> list[int]:
    """Return the places of at most `_SHOWN` of `count` points of a curve, with the first and the last."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(_SHOWN, count))).astype(int)).tolist()


def curve_rows(judgement: Judgement) -> list[list[str]]:
    """Return rows of k and every curve, in percent."""
    return [
        [f"{judgement.ks[i]:,}", *(percent(curve.interval(i)) for curve in judgement.curves.values())]
        for i in shown_places(len(judgement.ks))
    ]


BEYOND_HEADER = ("k", "Beta distribution", "power law", "measured")


def beyond_rows(beyond: Beyond) -> list[list[str]]:
    """Return rows of k, the two predictions of coverage, and what was measured, in percent."""
    return [
        [f"{k:,}", *map(percent, intervals)]
        for k, *intervals in zip(beyond.ks, beyond.by_beta, beyond.by_power, beyond.measured, strict=True)
    ]


def best_rows(weak: WeakJudgement) -> list[list[str]]:
    """Return rows of the cost of a wrong result, the number of attempts that pays best, and the reward."""
    rows = []
    for best, limits in zip(weak.best, weak.best_limits, strict=True):
        reward, low, high = Interval(best.reward, *limits).texts(".3f")
        attempts = f"{best.attempts:,}" if best.attempts else "abstain"
        rows.append(
            [f"{best.false_cost:g}", attempts, f"{reward} ({low}, {high})" if low and best.attempts else reward]
        )
    return rows


def weak_rows(weak: WeakJudgement) -> list[list[str]]:
    """Return what the weak verifier is worth, in percent."""
    last = len(weak.ks) - 1
    return [
        ["accuracy of a sample", percent(weak.single_accuracy)],
        ["accuracy of an accepted sample", percent(weak.conditional_accuracy)],
        ["accepted among wrong samples", percent(weak.false_positive_rate)],
        [f"solved with up to {weak.ks[-1]:,} attempts", percent(weak.solved.interval(last))],
        ["false positives then", percent(weak.false_positives.interval(last))],
        ["solved with a perfect verifier", percent(weak.perfect.interval(last))],
    ]


def account(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of what the samples cost, as far as their manifest says it."""
    formats: dict[str, Callable[[Any], str]] = {
        "checkpoint": str, "model_parameters": si, "flops": lambda x: si(x, "FLOPs"), "tokens_read": si,
        "tokens_written": si, "seconds": duration,
    }  # fmt: skip
    return [
        [name.replace("_", " "), formats[name](manifest[name])] for name in formats if manifest.get(name) is not None
    ]


# ---- sections ----


def _curves_section(judgement: Judgement, beyond: Beyond | None) -> str:
    caption = "Bands: 95 %, from resampling problems. The same problems are at every k, so points move together."
    figure = picture(
        curves_svg(judgement, beyond, "light"), curves_svg(judgement, beyond, "dark"),
        alt="Coverage and selections over the number of samples", caption=caption,
    )  # fmt: skip
    meanings = table(["", "counts a problem if"], [[n, _MEANING[n]] for n in judgement.curves], text=True)
    numbers = table(["k", *judgement.curves], curve_rows(judgement), caption="In percent, with 95 % intervals.")
    score = "whole sample" if judgement.score == "sum" else "token"
    note = (
        paragraph(f"Scores are log probabilities of the model per {score}.", "note") if BEST in judgement.curves else ""
    )
    return section("How many problems k samples solve", figure, numbers, meanings, note)


def _domains_section(judgement: Judgement) -> str:
    counts = judgement.counts
    names = list(dict.fromkeys(counts.domains))
    if len(names) < 2:
        return ""
    domains, by_problem = np.array(counts.domains), judgement.curves[COVERAGE].by_problem
    rows = []
    for name in names:
        chosen = domains == name
        groups = [group for group, keep in zip(counts.groups, chosen, strict=True) if keep]
        mean, low, high = mean_over_problems(by_problem[chosen], problem_resamples(int(chosen.sum()), groups))
        ends = [percent(Interval(float(mean[i]), float(low[i]), float(high[i]))) for i in (0, -1)]
        rows.append([name or "–", f"{chosen.sum():,}", *ends])
    return section("Domains", table(["", "problems", "pass@1", f"pass@{judgement.ks[-1]:,}"], rows))


def _beyond_section(beyond: Beyond | None) -> str:
    if beyond is None:
        return ""
    beta, power = beyond.beta, beyond.power
    numbers = table(list(BEYOND_HEADER), beyond_rows(beyond), caption="Coverage, in percent.")
    text = (
        f"By maximum likelihood the problems' success probabilities are {beta.scale:.3g} times a "
        f"Beta({beta.alpha:.3g}, {beta.beta:.3g}) variable, by which -ln(coverage) falls like k^-{beta.alpha:.3g} for "
        f"large k. The power law is exp(-{power['a']:.3g} k^-{power['b']:.3g}). Both are fitted to {beyond.samples:,} "
        f"samples of each problem, and rest on the {beyond.unsolved:.1%} of problems of which none is correct."
    )
    return section("More samples than were drawn", numbers, paragraph(text))


def _weak_section(weak: WeakJudgement | None) -> str:
    if weak is None:
        return ""
    caption = "The first attempt that the weak verifier accepts is returned. More attempts cannot pass its ceiling."
    figure = picture(weak_svg(weak, "light"), weak_svg(weak, "dark"), alt="Solved and false positives", caption=caption)
    facts = table(["", "percent"], weak_rows(weak), caption=f"Over {len(weak.counts.names):,} problems.")
    rewards = table(
        ["cost of a wrong result", "attempts that pay best", "reward"], best_rows(weak),
        caption="A right result is worth 1.",
    )  # fmt: skip
    return section("A weak verifier", figure, facts, rewards)


def _problems_section(judgement: Judgement) -> str:
    figure = picture(
        problems_svg(judgement, "light"), problems_svg(judgement, "dark"), alt="Problems by share of correct samples",
        caption="How hard the problems are for this model.",
    )  # fmt: skip
    return section("Problems", figure)


def _settings(manifest: Mapping[str, Any]) -> str:
    return json.dumps(dict(manifest), indent=2, ensure_ascii=False)
