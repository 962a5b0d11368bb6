"""The page of the day: results as tables, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpu_day.jobs import PARTS, Job
from gpu_day.results import Line, Results

HOW_TO_READ = """\
- Equality: the largest difference from the definition in float32, over the largest value, of output and gradients.
  **Bold** is beyond what rounding explains.
- Attention: milliseconds, and the share of the data sheet's bfloat16 rate that useful FLOPs make (allowed pairs of
  query and key only, 4 D each forward, 10 D backward): a kernel that computes what is masked shows a low share.
  Backward is forward with backward, less forward. **Bold** is the fastest.
- MFU: 6 N + 12 L H Q T FLOPs per token (PaLM, appendix B) over the same rate.
- `—`: not run, or refused; the reasons are below each table.

`docs/kernels.md` says what follows from the numbers."""


def write_page(results: Results, jobs: Sequence[Job], path: Path) -> None:
    """Write the page of what has been found so far."""
    sections = {
        "device": device_section,
        "tests": tests_section,
        "equality": equality_section,
        "train": train_section,
        "attention": attention_section,
        "demo": demo_section,
    }
    parts = [heading(results), outcome_table(results, jobs)]
    for part, section in sections.items():
        rows = results.rows(job.name for job in jobs if job.part == part)
        if text := section(rows) if rows else "":
            parts.append(f"## {part.capitalize()}: {PARTS[part]}\n\n{text}")
    path.write_text("\n\n".join([*parts, f"## How to read this page\n\n{HOW_TO_READ}"]) + "\n")


def heading(results: Results) -> str:
    runs = [line for line in results.lines if "dry_run" in line]
    title = "# A dry run of the GPU's day: these numbers mean nothing" if runs[-1]["dry_run"] else "# A GPU's day"
    begun = "; ".join(f"{run['time']}{' at commit ' + run['commit'] if run['commit'] else ''}" for run in runs)
    notes = [line["missing"] for line in results.lines if "missing" in line]
    return "\n\n".join([title, f"Started {begun}.", *(f"{note[0].upper()}{note[1:]}." for note in notes[-1:])])


def outcome_table(results: Results, jobs: Sequence[Job]) -> str:
    rows = []
    for job in jobs:
        end = results.end(job.name) or {"outcome": "not finished"}
        rows.append([job.name, job.part, end["outcome"], f"{end.get('seconds', '—')}", clean(end.get("reason", ""))])
    return table(["job", "part", "outcome", "seconds", "why"], rows)


# ---- the parts ----


def device_section(rows: Sequence[Line]) -> str:
    row = rows[-1]
    published = row["published_flops_per_s"]
    facts = {
        "device": f"{row['count']} × {row['device']}",
        **{f"nvidia-smi: {name}": value for name, value in (row["nvidia_smi"] or {}).items()},
        **{
            f"{dtype} matmul": f"{rate / 1e12:.4g} TFLOP/s{share(rate, published)}"
            for dtype, rate in row["matmul_flops_per_s"].items()
        },
        "copy": f"{row['copy_bytes_per_s'] / 1e12:.3g} TB/s, read and written",
        "versions": ", ".join(f"{name} {version}" for name, version in row["versions"].items()),
    }
    return table(["", ""], [[name, clean(value)] for name, value in facts.items()])


def share(rate: float, peak: float | None) -> str:
    return f", {rate / peak:.0%} of the data sheet's bfloat16 rate" if peak else ""


def tests_section(rows: Sequence[Line]) -> str:
    results = {row["test"]: row["result"] for row in rows if "result" in row}
    messages = {row["test"]: row["message"] for row in rows if "message" in row}
    counts = {result: list(results.values()).count(result) for result in sorted(set(results.values()))}
    text = ", ".join(f"{count} {result}" for result, count in counts.items()) + "."
    failed = [[test.partition("::")[2], clean(messages.get(test, ""))] for test in results if results[test] in FAILURES]
    return f"{text}\n\n{table(['failed', 'why'], failed)}" if failed else text


FAILURES = ("failed", "error")


def equality_section(rows: Sequence[Line]) -> str:
    kinds = unique(row["kind"] for row in rows)
    groups = by_key(rows, lambda row: (row["implementation"], row["dtype"], row["head_dim"]))
    body = []
    for (implementation, dtype, head_dim), cells in groups.items():
        found = {row["kind"]: row for row in cells}
        same = {row["same_bits"] for row in cells if "same_bits" in row}
        bits = {frozenset(): "—", frozenset({True}): "yes"}.get(frozenset(same), "**no**")
        body.append([implementation, dtype, str(head_dim), *(error_of(found.get(kind)) for kind in kinds), bits])
    header = ["implementation", "type", "D", *kinds, "same bits twice"]
    return f"{table(header, body)}\n\n{reasons(rows)}"


def error_of(row: Line | None) -> str:
    if row is None or "errors" not in row:
        return "—"
    errors = row["errors"].values()
    text = "not finite" if None in errors else f"{max(errors):.1e}"
    return text if row["equal"] else f"**{text}**"


def train_section(rows: Sequence[Line]) -> str:
    body = [
        [
            row["shape"],
            row["attention"] or "default",
            row["xla_flags"] or "—",
            f"{row['batch']} × {row['seq_len']}",
            f"{1e3 * row['step_s']:.4g}",
            f"{row['tokens_per_s']:,.0f}",
            "—" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['share_of_peak']:.1%}",
            "—" if row["device_peak_mb"] is None else f"{row['device_peak_mb'] / 1024:.1f}",
            f"{row['first_step_s']:.0f}",
        ]
        for row in rows
    ]
    header = ["model", "attention", "XLA_FLAGS", "batch", "ms per step", "tokens/s", "MFU", "of measured matmul"]
    return table([*header, "device GiB", "first step, s"], body)


def attention_section(rows: Sequence[Line]) -> str:
    names = unique(row["implementation"] for row in rows)
    body = []
    for (head_dim, length, kind), cells in by_key(rows, lambda row: (row["head_dim"], row["T"], row["kind"])).items():
        times = {(row["implementation"], row["pass"]): row for row in cells}
        for which in ("forward", "backward"):
            line = [time_of(times, name, which) for name in names]
            body.append([str(head_dim), f"{length:,}", kind, which, *mark_fastest(line)])
    return f"{table(['D', 'T', 'rows', 'pass', *names], body)}\n\n{reasons(rows)}"


def time_of(times: dict[tuple[str, str], Line], name: str, which: str) -> tuple[float, str] | None:
    """Return the seconds of a pass and their text; None where it was not timed."""
    forward, both = times.get((name, "forward"), {}), times.get((name, "forward+backward"), {})
    if "seconds" not in forward or (which == "backward" and "seconds" not in both):
        return None
    seconds, flops = forward["seconds"], forward["seconds"] * forward["tflops_per_s"]
    if which == "backward":
        flops = both["seconds"] * both["tflops_per_s"] - flops
        seconds = both["seconds"] - seconds
    text = f"{1e3 * seconds:.4g}"
    if "share_of_peak" in forward and seconds > 0:
        peak = forward["tflops_per_s"] / forward["share_of_peak"]
        text += f" ({flops / seconds / peak:.0%})"
    return seconds, text


def mark_fastest(cells: Sequence[tuple[float, str] | None]) -> list[str]:
    fastest = min((cell[0] for cell in cells if cell), default=None)
    return ["—" if cell is None else f"**{cell[1]}**" if cell[0] == fastest else cell[1] for cell in cells]


def demo_section(rows: Sequence[Line]) -> str:
    texts = []
    for row in (row for row in rows if "equal" in row):
        killed = ", ".join(f"{kill['signal']} after step {kill['after_checkpoint']}" for kill in row["killed"])
        verdict = "**bit for bit the undisturbed one**" if row["equal"] else "**not the undisturbed one**"
        flags = f"With `{row['xla_flags']}`, the" if row["xla_flags"] else "Without XLA_FLAGS, the"
        text = f"{flags} run that got {killed or 'no signal'} and was resumed is {verdict}."
        if not row["equal"]:
            same = {True: "the same", False: "different"}
            text += f" Its log is {same[row['log_equal']]}, its arrays are {same[row['arrays_equal']]}."
        if "first_difference" in row:
            text += f" The logs differ from step {row['first_difference']}; "
            text += f"losses differ by up to {row['largest_loss_difference']:g}."
        speed = f"loss {row['loss']:.4f}, {row['tokens_per_s']:,.0f} tokens/s, {row['seconds']:.0f} s"
        texts.append(f"{text} Undisturbed: {row['steps']} steps, {speed}, all of the process included.")
    return "\n\n".join(texts)


# ---- tables ----


def reasons(rows: Sequence[Line]) -> str:
    """List why implementations did not run."""
    found = by_key([row for row in rows if "error" in row], lambda row: (row["implementation"], reason(row["error"])))
    lines = []
    for (name, why), cells in found.items():
        kinds, dims = unique(row["kind"] for row in cells), unique(f"{row['head_dim']}" for row in cells)
        lines.append(f"- {name} ({', '.join(kinds)}; D {', '.join(dims)}): {clean(why)}")
    return "\n".join(lines)


def reason(error: str) -> str:
    """Return what a backend says, without the sentences of `attention` around it."""
    return error.partition("does not support this call: ")[2].partition(" These do: ")[0] or error


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def by_key[K](rows: Iterable[Line], key: Callable[[Line], K]) -> dict[K, list[Line]]:
    groups: dict[K, list[Line]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def clean(text: str) -> str:
    """Return the text as it can stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
