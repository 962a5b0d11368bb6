"""Everything to try on the day an NVIDIA GPU is there, in 12 minutes: what works, what is right, how fast it is.

    tools/gpu_day.sh                            all parts
    tools/gpu_day.sh --parts tests equality     some parts
    tools/gpu_day.sh --minutes 9                less time: jobs begin in the order of what they tell
    tools/gpu_day.sh --wheels wheels            install the wheels of this folder first, into OUT/site; no network
    tools/gpu_day.sh --dry-run                  on a CPU, with interpreted kernels and tiny shapes; 2 minutes

Needs JAX for CUDA, as `make install EXTRA=cuda13` or `pip install "jax[cuda13]"` installs it: without a network it has
to be there. Parts whose packages are missing are skipped, and one sentence says what would bring them.

A part is one or more jobs, processes with a time limit each. One that fails or takes too long is reported and the
others go on. The same command continues: what has passed is not run again (--again: it is).

Writes to OUT (--out, default runs/gpu_day):

    results.jsonl   every result, as it comes: whole lines even after a kill
    page.md         the results as tables, rewritten after every job
    JOB.log         what else a job printed

Exits with 1 if a job failed or timed out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gpu_day.jobs import DRY, GPU, PARTS, Job, dry_jobs, gpu_jobs
from gpu_day.packages import (
    CUDA,
    ROOT,
    cuda_is_installed,
    describe_checkout,
    install_wheels,
    missing_packages,
    sentence,
)
from gpu_day.page import write_page
from gpu_day.results import Results
from gpu_day.runner import run_job

LEAST_SECONDS = 15  # that a job is begun with


def main() -> int:
    arguments = parse_arguments()
    deadline = time.monotonic() + 60 * arguments.minutes
    out: Path = arguments.out
    results = open_results(out, arguments.dry_run, arguments.again)
    site = out / "site"
    if arguments.wheels:
        install_wheels(arguments.wheels, site)
    describe_checkout(site)
    sys.path.append(str(site))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))

    workers = importlib.util.find_spec("xdist") is not None
    jobs = dry_jobs(out) if arguments.dry_run else gpu_jobs(out, workers)
    chosen = [job for job in jobs if job.part in arguments.parts and not results.passed(job.name)]
    if not arguments.dry_run and not cuda_is_installed():
        print(
            f"error: JAX for CUDA is missing ({' or '.join(CUDA)}), 2.6 GB of wheels with CUDA's libraries: where "
            "there is a network, make install EXTRA=cuda13, otherwise use an image of the machine that has it",
            file=sys.stderr,
        )
        return 2
    missing = {job.name: missing_packages(job.needs) for job in chosen}
    peers = missing_packages({name for job in chosen for name in job.helps})
    by_part = {job.part: missing[job.name] for job in chosen if missing[job.name]}
    if note := sentence(by_part | {"the comparison with tokamax": peers}):
        print(note, flush=True)
        results.add({"job": "run", "missing": note})

    try:
        for job in chosen:
            run_or_skip(job, missing[job.name], results, deadline, out, DRY if arguments.dry_run else GPU)
            write_page(results, jobs, out / "page.md")
    finally:
        write_page(results, jobs, out / "page.md")
        print(f"{remaining(deadline)} results: {out}/page.md", flush=True)
    ends = [results.end(job.name) for job in chosen]
    return int(any(end is None or end["outcome"] in ("failed", "timed out") for end in ends))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "tools/gpu_day.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=describe_parts())
    parser.add_argument("--minutes", type=float, default=12, help="for all jobs together; default: 12")
    parser.add_argument("--out", type=Path, help="directory of the results; default: runs/gpu_day")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument("--again", action="store_true", help="begin anew: the results in OUT are deleted")
    parser.add_argument("--dry-run", action="store_true", help="try the script itself on a CPU")
    arguments = parser.parse_args()
    arguments.out = (arguments.out or Path("runs/gpu_day_dry" if arguments.dry_run else "runs/gpu_day")).absolute()
    if arguments.minutes <= 0:
        parser.error(f"--minutes {arguments.minutes:g}: give it more than 0")
    if arguments.wheels and not arguments.wheels.is_dir():
        parser.error(f"--wheels {arguments.wheels} is not a folder")
    return arguments


def describe_parts() -> str:
    return "; ".join(f"{part}: {what}" for part, what in PARTS.items())


def open_results(out: Path, dry_run: bool, again: bool) -> Results:
    """Open OUT's results. Raises SystemExit where a dry run would be mixed with measurements."""
    path = out / "results.jsonl"
    if again:
        path.unlink(missing_ok=True)
    results = Results(path)
    earlier = next((line for line in results.lines if "dry_run" in line), None)
    if earlier and earlier["dry_run"] != dry_run:
        kind = "a dry run" if earlier["dry_run"] else "a GPU"
        raise SystemExit(f"error: {path} has the results of {kind}; name another --out, or delete them by --again")
    results.add({"job": "run", "dry_run": dry_run, "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"), "commit": commit()})
    return results


def commit() -> str | None:
    """Return the checkout's commit, with + where files differ from it; None without git."""
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changes)


def run_or_skip(
    job: Job, missing: list[str], results: Results, deadline: float, out: Path, environment: Mapping[str, str]
) -> None:
    """Run a job, or say why not."""
    left = deadline - time.monotonic()
    if missing:
        end = {"job": job.name, "outcome": "skipped", "reason": f"missing: {', '.join(missing)}"}
        results.add(end)
    elif left < LEAST_SECONDS:
        end = {"job": job.name, "outcome": "not run", "reason": "no time was left; the same command continues"}
        results.add(end)
    else:
        seconds = min(job.seconds, left)
        print(f"{remaining(deadline)} {job.name} ({PARTS[job.part]}), at most {seconds:.0f} s ...", flush=True)
        environment = {**environment, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{out / 'site'}"}
        end = run_job(job, results, seconds, out / f"{job.name}.log", environment)
    reason = f": {end['reason']}" if "reason" in end else ""
    print(f"{remaining(deadline)} {job.name} {end['outcome']}{reason}", flush=True)


def remaining(deadline: float) -> str:
    left = max(0, round(deadline - time.monotonic()))
    return f"[{left // 60}:{left % 60:02} left]"


if __name__ == "__main__":
    sys.exit(main())
