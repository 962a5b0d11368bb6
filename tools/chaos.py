"""Inject faults into real runs, and count what comes out as if nothing had happened.

Areas: kills (SIGKILL), signals (SIGTERM, SIGINT, SIGHUP), checkpoints (changed, truncated, missing files), corpora (the
same in a token store), disk (no more space), locks (two writers), numbers (NaN in a batch), processes (one of two is
killed), studies (the runner is killed), builds (`data build` is killed). Moments and places are random, by --seed.

    python tools/chaos.py --rounds 10                      # about an hour on two cores
    python tools/chaos.py --areas kills,disk --rounds 2

Prints one JSON line: per area how many faults were tried and what came out wrong. Exits with 1 if anything did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pathways_lite.errors import TRY_AGAIN

RECIPE = """
from pathways_lite.recipe import *

def recipe():
    shape = dict(d_model=32, n_heads=2, head_dim=16, d_ff=64, vocab_size=257, dtype="float32")
    rest = dict(
        data=Data(corpus={corpus!r}, seq_len=64), optimizer=AdamW(learning_rate=1e-3), batch_size=4, budget="30 steps",
        evaluation=Evaluation(every=10, tokens=2000), saving=Saving(every=2, keep=2), log_every=1,
    )
    base = Stage(name="base", model=Model(n_layers=2, **shape), **rest)
    grown = Stage(name="grown", start=Grow(operator=Stack()), model=Model(n_layers=4, **shape), **rest)
    return Recipe(name="chaos", stages=(base, grown))
"""
STUDY = """
from pathways_lite.recipe import load_recipe
from pathways_lite.studies import Study

def study():
    longer = load_recipe({recipe!r}, ["stages.grown.budget=40 steps"])
    arms = {{"grown": (load_recipe({recipe!r}),), "longer": (longer,)}}
    return Study(name="chaos", question="Does anything differ?", arms=arms, baseline="grown")
"""
STAGES = ("base", "grown")


class Lab:
    """A folder with a small corpus, a recipe of two stages and an undisturbed run of it."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.text, self.corpus, self.recipe = folder / "text.jsonl", folder / "corpus", folder / "recipe.py"
        words = ("the", "a", "river", "bridge", "stone", "water", "old", "new", "crosses", "near", "under", "looks")
        with self.text.open("w") as file:
            for number in range(400):
                text = " ".join(rng.choice(words) for _ in range(80))
                file.write(json.dumps({"text": text, "domain": ("prose", "verse")[number % 2]}) + "\n")
        self.run("data", "build", self.corpus, self.text, "--tokenizer", "bytes", "--held-out", "0.1")
        self.recipe.write_text(RECIPE.format(corpus=str(self.corpus)))
        self.reference = folder / "reference"
        start = time.monotonic()
        status, output = self.train(self.reference)
        self.duration = time.monotonic() - start
        assert not status, f"the undisturbed run ended with {status}:\n{output}"

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command of pathways-lite."""
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, "-m", "pathways_lite", *map(str, words)],
            env=os.environ | cache | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def run(self, *words: object) -> tuple[int, str]:
        """Run a command to its end; return its exit status and output."""
        process = self.start(*words)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def training(self, out: Path) -> tuple[object, ...]:
        return "train", self.recipe, "--out", out, "--track", "none"

    def train(self, out: Path) -> tuple[int, str]:
        return self.run(*self.training(out))

    def kill_at_random(self, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> tuple[int, str]:
        """Send the signal at a random moment of the reference's duration; return exit status and output."""
        try:
            process.wait(self.rng.uniform(0.2, self.duration))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def difference(self, run: Path, reference: Path | None = None) -> str | None:
        """Continue `run` to its end and say what differs from the undisturbed run; None where nothing does."""
        status, output = self.train(run)
        if status:
            return f"resuming ended with {status}: {output[-300:]}"
        for stage in STAGES:
            for name, mine, theirs in zip(
                ("log", "arrays"), result(run / stage), result((reference or self.reference) / stage), strict=True
            ):
                if mine != theirs:
                    return f"the {name} of stage {stage} differ from the undisturbed run's"
        return None


def result(stage: Path) -> tuple[bytes, str]:
    from pathways_lite.checkpoints import CheckpointManager, read_manifest

    checkpoints = CheckpointManager(stage / "checkpoints")
    assert checkpoints.newest is not None
    return (stage / "log.jsonl").read_bytes(), read_manifest(checkpoints.path(checkpoints.newest)).digest


def damage(rng: random.Random, files: list[Path]) -> str:
    """Damage one of the files at random, and say how."""
    path = rng.choice([file for file in files if file.stat().st_size])
    content = bytearray(path.read_bytes())
    kind = rng.choice(("flipped", "truncated", "zeroed", "emptied", "deleted"))
    if kind == "flipped":
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    elif kind == "truncated":
        del content[rng.randrange(len(content)) :]
    elif kind == "zeroed":
        content = bytearray(len(content))
    elif kind == "emptied":
        content.clear()
    path.unlink() if kind == "deleted" else path.write_bytes(content)
    return f"{kind} {path.name}"


def files_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


Trials = Iterator[tuple[str, str | None]]
"""What was done, and what was wrong afterwards (None: nothing)."""

# ---- one process ----


def kills(lab: Lab, rounds: int) -> Trials:
    """A run is killed three times and continued; all must be as if it had not been."""
    for number in range(rounds):
        run = lab.fresh("killed")
        for _ in range(3):
            status, output = lab.kill_at_random(lab.start(*lab.training(run)))
            yield "kill", None if status in (0, -signal.SIGKILL) else f"ended with {status}: {output[-300:]}"
        yield f"end of run {number}", lab.difference(run)


def signals(lab: Lab, rounds: int) -> Trials:
    """A signal saves and ends the run; continued, it is the undisturbed one."""
    for number in range(rounds):
        kind = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[number % 3]
        run = lab.fresh("stopped")
        status, output = lab.kill_at_random(lab.start(*lab.training(run)), kind)
        # Before Python handles signals the operating system ends the process, and there is nothing to save yet.
        expected = (0, 128 + kind, -kind)
        problem = None if status in expected and "Traceback" not in output else f"ended with {status}: {output[-300:]}"
        yield kind.name, problem or lab.difference(run)


def disk(lab: Lab, rounds: int) -> Trials:
    """Files may not grow beyond a random size: one sentence and status 2, and the run continues once they may."""
    for _ in range(rounds):
        run, size = lab.fresh("full"), int(2 ** lab.rng.uniform(6, 17))
        process = lab.start(*lab.training(run))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))  # while it imports, before it writes
        output, _ = process.communicate()
        told = process.returncode in (0, 2) and "Traceback" not in output
        problem = None if told else f"ended with {process.returncode}: {output[-300:]}"
        yield f"files of {size} bytes", problem or lab.difference(run)


def locks(lab: Lab, rounds: int) -> Trials:
    """One run has one writer; what a dead writer left behind stops nobody."""
    for _ in range(rounds):
        run = lab.fresh("locked")
        first = lab.start(*lab.training(run))
        while first.poll() is None and not (run / "base/log.jsonl").exists():
            time.sleep(0.05)
        status, output = lab.train(run)
        refused = status in (2, 75) and "Traceback" not in output
        yield "a second writer", None if refused else f"{status}: {output[-300:]}"
        first.kill()
        first.communicate()
        (run / "run.lock").write_text(lab.rng.choice(["", "{", "[/red]", "\x00" * 40]))
        yield "a damaged lock", lab.difference(run)


def numbers(lab: Lab, rounds: int) -> Trials:
    """A batch of NaN: whatever the guard does, every checkpoint that is left is finite."""
    import jax
    import numpy as np

    from pathways_lite.console import Console
    from pathways_lite.errors import UserError
    from pathways_lite.recipe import load_recipe
    from pathways_lite.training.hooks import TrainerHooks
    from pathways_lite.training.load import load_model
    from pathways_lite.training.run import train_run

    class Poison(TrainerHooks):
        def __init__(self, first: int, count: int) -> None:
            self.steps = range(first, first + count)

        def before_step(self, stage: str, step: int, batch: Any) -> Any:
            return batch._replace(loss_weights=batch.loss_weights * float("nan")) if step in self.steps else batch

    for number in range(rounds):
        policy = ("halt", "skip", "rewind")[number % 3]
        run, count = lab.fresh("poisoned"), lab.rng.choice((1, 30))
        recipe = load_recipe(lab.recipe, [f"stages.base.guard.policy={policy}", "stages.base.guard.window=6"])
        hooks = Poison(lab.rng.randrange(2, 25), count)
        with suppress(UserError), Path(os.devnull).open("w") as nowhere:
            train_run(recipe, run, console=Console(file=nowhere), hooks=hooks)
        saved = sorted((run / "base/checkpoints").glob("step_*"))
        finite = lambda leaf: np.isfinite(np.asarray(leaf)).all()  # noqa: E731
        bad = [path.name for path in saved if not all(map(finite, jax.tree.leaves(load_model(path).params())))]
        yield f"{policy}, {count} batches", f"not finite: {', '.join(bad)}" if bad else None


# ---- damaged files ----


def checkpoints(lab: Lab, rounds: int) -> Trials:
    """A damaged last checkpoint is found by fsck, used by nobody, and trained again for the stage that follows."""
    from pathways_lite.checkpoints import verify_checkpoint
    from pathways_lite.errors import UserError
    from pathways_lite.training.load import load_model

    for number in range(5 * rounds):
        run = Path(shutil.copytree(lab.reference, lab.fresh("damaged")))
        newest = max((run / "base/checkpoints").glob("step_*"))
        what = damage(lab.rng, [newest / "manifest.json", *files_in(newest / "arrays")])
        problem = "fsck calls it whole" if verify_checkpoint(newest).ok else None
        with suppress(UserError):
            if load_model(run / "base").path == newest:
                problem = "it is used"
        if problem is None and number % 5 == 0:
            shutil.rmtree(run / "grown")
            problem = lab.difference(run)
        yield what, problem


def corpora(lab: Lab, rounds: int) -> Trials:
    """A damaged token store is found by fsck, and no run trains on it as if it were whole."""
    for number in range(5 * rounds):
        corpus = Path(shutil.copytree(lab.corpus, lab.fresh("damaged corpus")))
        what = damage(lab.rng, files_in(corpus))
        status, output = lab.run("data", "fsck", corpus)
        problem = None if status and "Traceback" not in output else f"fsck ended with {status}: {output[-300:]}"
        if problem is None and number % 5 == 0:
            run = lab.fresh("fed")
            status, output = lab.run(*lab.training(run), *(f"stages.{stage}.data.corpus={corpus}" for stage in STAGES))
            same = status == 0 and result(run / "grown") == result(lab.reference / "grown")
            if not (same or status == 2) or "Traceback" in output:
                problem = f"training ended with {status}: {output[-300:]}"
        yield what, problem


# ---- several processes ----


@contextmanager
def _two_processes(lab: Lab, run: Path) -> Iterator[list[subprocess.Popen[str]]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = [["--coordinator", f"localhost:{port}", "--processes", 2, "--process", index] for index in range(2)]
    started = [lab.start(*lab.training(run), *words) for words in flags]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def processes(lab: Lab, rounds: int) -> Trials:
    """One of two processes is killed: the other ends as well, and both continue to the undisturbed result of two."""
    reference = lab.fresh("two processes")
    with _two_processes(lab, reference) as started:
        for process in started:
            process.wait(600)
    for _ in range(rounds):
        run = lab.fresh("one of two")
        with _two_processes(lab, run) as started:
            while not (run / "recipe.json").is_file():  # before they have met, one waits 300 s for the other
                time.sleep(0.05)
            victim = lab.rng.randrange(2)
            lab.kill_at_random(started[victim])
            problem: str | None = "the other process waits"
            with suppress(subprocess.TimeoutExpired):
                started[1 - victim].wait(150)
                problem = None
        for _ in range(2):  # as schedulers do where a process says "try again": on a busy machine one may come too late
            with _two_processes(lab, run) as started:
                statuses = [process.wait(600) for process in started]
            if TRY_AGAIN not in statuses:
                break
        if statuses != [0, 0] or any(result(run / stage) != result(reference / stage) for stage in STAGES):
            problem = f"resuming ended with {statuses}, or the result differs from the undisturbed run's"
        yield f"process {victim} is killed", problem


def studies(lab: Lab, rounds: int) -> Trials:
    """The runner of a study is killed and started again; every node has the undisturbed result."""
    study = lab.folder / "study.py"
    study.write_text(STUDY.format(recipe=str(lab.recipe)))
    words = lambda out: ("study", "run", study, "--out", out, "--jobs", 1)  # noqa: E731
    reference = lab.fresh("study")
    status, output = lab.run(*words(reference))
    if status:
        raise SystemExit(f"the undisturbed study ended with {status}:\n{output}")
    for _ in range(rounds):
        out = lab.fresh("killed study")
        for _ in range(2):
            lab.kill_at_random(lab.start(*words(out)))
        status, output = lab.run(*words(out))
        results, expected = _nodes(out), _nodes(reference)
        problem = None if results == expected else "nodes differ from the undisturbed study's"
        yield "two kills of the runner", f"ended with {status}: {output[-300:]}" if status else problem


def _nodes(study: Path) -> dict[str, tuple[bytes, str]]:
    stages = {path.parent for path in study.glob("nodes/*/*/summary.json") if not path.parent.is_symlink()}
    return {str(stage.relative_to(study)): result(stage) for stage in sorted(stages)}


def builds(lab: Lab, rounds: int) -> Trials:
    """`data build` is killed and started again: the store has the same fingerprint."""
    fingerprint = lambda store: json.loads((store / "manifest.json").read_text())["fingerprint"]  # noqa: E731
    for _ in range(rounds):
        store = lab.fresh("built")
        words = ("data", "build", store, lab.text, "--tokenizer", "bytes", "--held-out", "0.1")
        lab.kill_at_random(lab.start(*words))
        status, output = lab.run(*words)
        same = not status and fingerprint(store) == fingerprint(lab.corpus)
        yield "kill", None if same else f"{status}: {output[-300:]}"


AREAS: dict[str, Callable[[Lab, int], Trials]] = {
    area.__name__: area
    for area in (kills, signals, disk, locks, numbers, checkpoints, corpora, processes, studies, builds)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--areas", default=",".join(AREAS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="per area; damaged files are tried five times as often")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.areas.split(",")) - set(AREAS):
        parser.error(f"no areas: {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        report = inject(Path(temporary), options.areas.split(","), options.rounds, options.seed)
    print(json.dumps(report | {"command": " ".join(["python", *sys.argv])}))
    sys.exit(any(area["wrong"] for area in report["areas"].values()))


def inject(folder: Path, areas: list[str], rounds: int, seed: int) -> dict[str, Any]:
    """Try all faults in `folder`; return what was tried and what was wrong, by area."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    start = time.monotonic()
    lab = Lab(folder, random.Random(seed))
    results: dict[str, Any] = {}
    for name in areas:
        counts = results[name] = {"tried": 0, "wrong": []}
        for what, problem in AREAS[name](lab, rounds):
            counts["tried"] += 1
            if problem:
                counts["wrong"].append(f"{what}: {problem}")
            print(f"{name}: {what}: {problem or 'right'}", file=sys.stderr, flush=True)
    return {"areas": results, "rounds": rounds, "seed": seed, "seconds": round(time.monotonic() - start)}


if __name__ == "__main__":
    main()
