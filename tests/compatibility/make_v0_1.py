"""Make `v0_1/`: what users of version 0.1 have, by which `test_*.py` here hold every later version.

It was run with the code of commit 2bbdf6f, the last one before everything was renamed, and is kept to explain the
files, not to be run again: what it makes with other code is not what users of 0.1 have. It refuses to overwrite.

    python tests/compatibility/make_v0_1.py --out DIRECTORY

`v0_1/inputs/` is written by hand: a corpus, recipes and a study as a user writes them.
"""

import argparse
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

# As tests/conftest.py has them, so that the tests compute what was computed here.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from command_line import all_verbs, help_text, run, succeed
from frozen import CONFIGS, INPUTS, ROOT, V0_1, recipe_identities, study_identities

# Configurations with overrides as the documentation, the help and docs/results/ have them.
OVERRIDES: list[tuple[str, list[str]]] = [
    ("demo.py", ["stages.base.optimizer=adamw", "stages.base.budget=1e5 tokens"]),
    ("demo.py", ["stages.base.optimizer.learning_rate=3e-4"]),
    ("demo.py", ["stages.base.optimizer=muon", "stages.0.batch_size=4"]),
    ("demo.py", ["stages.base.mesh.tensor=2"]),
    ("demo.py", ['stages.base.reweighting={"rule": {"kind": "lin_upper"}}', "seed=3"]),
    ("demo.py", ["stages.base.data.corpus=corpora/other", "stages.base.model.vocab_size=264"]),
    ("demo.py", ["stages.base.data.fingerprint=none", "stages.base.budget=20 steps", "stages.base.model.remat=full"]),
    ("growth.py", ["stages.grown.start.operator=interpolate", "stages.grown.start.optimizer=grow"]),
    ("sparse.py", ["stages.base.pruning.structure=channels"]),
    ("ul2r_demo.py", ["stages.ul2r.objective.members.1.denoiser.mean_span=64"]),
    ("ul2r_demo.py", ["stages.ul2r.objective=ul2"]),
    ("palm_8b.py", ["stages.base.mesh.tensor=4"]),
    ("palm_8b.py", ["stages.base.mesh.fsdp=256", "stages.base.microbatch=none"]),
]
STUDY_OVERRIDES = [
    "stages.base.data.corpus=corpora/languages_bytes", "stages.base.model.d_model=64", "stages.base.model.n_heads=4",
    "stages.base.model.head_dim=16", "stages.base.model.d_ff=256", "stages.base.model.vocab_size=264",
    "stages.base.batch_size=32", "stages.base.budget=2.5e12 flops",
]  # fmt: skip

# The frozen run, as `kill -9` leaves it at this step of its last stage.
LAST_STAGE, LAST_SAVE, LAST_ROW = "denoised", 8, 10

PREDICTIONS = [
    ["predict", "chinchilla.json", "N=1e9", "D=2e10"],
    ["optimal", "chinchilla.json", "C=1e20"],
    ["predict", "mixing.json", "web=0.3", "code=0.7"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=V0_1, help="must not hold anything but inputs/")
    out: Path = parser.parse_args().out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if there := sorted(path.name for path in out.iterdir() if path.name != "inputs"):
        parser.exit(2, f"{out} holds {', '.join(there)}; what is frozen is not made again. Name another --out.\n")
    freeze_recipes(out)
    freeze_help(out)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        shutil.copytree(INPUTS, directory, dirs_exist_ok=True)
        freeze_corpus(directory, out)
        freeze_run(directory, out)
        freeze_study(directory, out)
        freeze_fits(directory, out)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pack(directory: Path, names: list[str], out: Path) -> None:
    """An archive of what `names` are in `directory`, the same for the same files."""

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if info.name.endswith(("run.lock", ".png", ".svg", ".html", "output.txt", "/claims")):
            return None
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    for path in (path for name in names for path in (directory / name).rglob("*") if path.is_file()):
        assert str(directory).encode() not in path.read_bytes(), f"{path} names this machine's directories"
    with tarfile.open(out, "w:xz", preset=9) as archive:
        for name in names:
            archive.add(directory / name, name, filter=anonymous)


# ---- recipes and help ----


def freeze_recipes(out: Path) -> None:
    import pathways_lite.recipe
    import pathways_lite.studies
    from pathways_lite.recipe import load_recipe, write_recipe
    from pathways_lite.scaling.laws.registry import LAWS
    from pathways_lite.studies import load_study

    (out / "recipes").mkdir()
    recipes, studies = {}, {}
    files = sorted(CONFIGS.glob("*.py"))
    for path in [*files, INPUTS / "every_kind.py", INPUTS / "run_recipe.py"]:
        recipe = load_recipe(path)
        recipes[name_of(path)] = recipe_identities(recipe)
        write_recipe(recipe, out / "recipes" / f"{path.stem}.json")
    every_kind = out / "recipes" / "every_kind.json"
    every_kind.write_text(json.dumps(json.loads(every_kind.read_text()), separators=(",", ":")) + "\n")  # it is long
    for path in [*sorted(CONFIGS.glob("*/*.py")), INPUTS / "study.py"]:
        study = load_study(path)
        studies[name_of(path)] = study_identities(study)
        write_recipe(next(iter(study.arms.values()))[0], out / "recipes" / f"{path.parent.name}.{path.stem}.json")
    overridden = [
        {"config": name, "overrides": words, "identities": recipe_identities(load_recipe(CONFIGS / name, words))}
        for name, words in OVERRIDES
    ]
    overridden_study = load_study(CONFIGS / "ablations" / "reweighting.py", STUDY_OVERRIDES)
    write(
        out / "identities.json",
        {
            "recipes": recipes,
            "studies": studies,
            "overridden": overridden,
            "overridden_study": {
                "config": "ablations/reweighting.py",
                "overrides": STUDY_OVERRIDES,
                "identities": study_identities(overridden_study),
            },
        },
    )
    write(
        out / "names.json",
        {
            "pathways_lite.recipe": sorted(pathways_lite.recipe.__all__),
            "pathways_lite.studies": sorted(pathways_lite.studies.__all__),
            "laws": sorted(LAWS),
        },
    )


def name_of(path: Path) -> str:
    """The path below configs/, or the name of an input."""
    return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else f"inputs/{path.name}"


def freeze_help(out: Path) -> None:
    (out / "help").mkdir()
    for words in all_verbs():
        text = "\n".join(line.rstrip() for line in help_text(words).strip().splitlines())
        (out / "help" / f"{'.'.join(words) or 'pathways-lite'}.txt").write_text(text + "\n", encoding="utf-8")


# ---- a corpus, a run, a study ----


def freeze_corpus(directory: Path, out: Path) -> None:
    build = ["data", "build", "corpus", "corpus.jsonl", "--tokenizer", "bytes", "--held-out", "0.1", "--workers", "0"]
    succeed(*build, directory=directory)
    pack(directory, ["corpus"], out / "corpus.tar.xz")
    succeed("data", "select", "random", "corpus", "half.jsonl", "--keep", "0.5", directory=directory)
    shutil.copy(directory / "half.jsonl", out / "half.jsonl")
    succeed("data", "apply", "half.jsonl", "half", directory=directory)
    names = ("corpus", "half")
    manifests = {name: json.loads((directory / name / "manifest.json").read_text()) for name in names}
    write(out / "corpus.json", {"build": build, **{name: manifests[name] for name in names}})


def freeze_run(directory: Path, out: Path) -> None:
    succeed("train", "run_recipe.py", "--track", "none", "--out", "runs/frozen", directory=directory)
    evaluation = json.loads(succeed("evaluate", "runs/frozen", "--json", directory=directory))
    inspection = json.loads(succeed("inspect", "runs/frozen", "--json", directory=directory))
    final = {"step": inspection["step"], "arrays": inspection["arrays"]}
    (out / "logs").mkdir()
    stages = sorted(path.parent for path in (directory / "runs" / "frozen").glob("*/log.jsonl"))
    for stage in stages:
        shutil.copy(stage / "log.jsonl", out / "logs" / f"{stage.name}.jsonl")
    interrupt(directory / "runs" / "frozen" / LAST_STAGE)
    interrupted = {
        "evaluation": json.loads(succeed("evaluate", "runs/frozen", "--json", directory=directory)),
        "inspection": json.loads(succeed("inspect", "runs/frozen", "--json", directory=directory)),
        "list": [json.loads(line) for line in succeed("runs", "runs", "--json", directory=directory).splitlines()],
    }
    write(out / "run.json", {"final": {**final, "evaluation": evaluation}, "interrupted": interrupted})
    pack(directory, ["runs/frozen"], out / "run.tar.xz")


def interrupt(stage: Path) -> None:
    """Leave of a finished stage what a kill leaves: rows beyond the newest checkpoint, and no summary."""
    (stage / "summary.json").unlink()
    saves = sorted((stage / "checkpoints").glob("step_*"))
    for later in [path for path in saves if int(path.name.removeprefix("step_")) > LAST_SAVE]:
        shutil.rmtree(later)
    for name in ("log.jsonl", "timings.jsonl"):
        lines = (stage / name).read_text().splitlines(keepends=True)
        (stage / name).write_text("".join(line for line in lines if json.loads(line)["step"] <= LAST_ROW))
    manifest = json.loads((stage / "checkpoints" / f"step_{LAST_SAVE:08d}" / "manifest.json").read_text())
    (stage / "ledger.json").write_text(json.dumps(manifest["meta"]["ledger"], indent=2) + "\n")


def freeze_study(directory: Path, out: Path) -> None:
    succeed("study", "run", "study.py", directory=directory)
    for path in (directory / "runs" / "rates").rglob("*"):
        if path.name in ("checkpoints", "tensorboard", "claims") and path.is_dir():
            shutil.rmtree(path)
    status = succeed("study", "status", "study.py", directory=directory)
    outcome = run("study", "report", "study.py", directory=directory)
    (out / "study").mkdir()
    (out / "study" / "status.txt").write_text(status)
    verdicts = [line for line in outcome.stderr.splitlines() if line.startswith("At ")]  # not Matplotlib's warnings
    (out / "study" / "verdict.txt").write_text("\n".join(verdicts) + "\n")
    shutil.copy(directory / "runs" / "rates" / "results.csv", out / "study" / "results.csv")
    succeed("runs", "table", "runs/rates", "--final", "--out", "table.csv", directory=directory)
    shutil.copy(directory / "table.csv", out / "study" / "table.csv")
    (directory / "runs" / "rates" / "results.csv").unlink()
    shutil.rmtree(directory / "runs" / "rates" / "figures")
    pack(directory, ["runs/rates"], out / "study.tar.xz")


# ---- fits ----


def freeze_fits(directory: Path, out: Path) -> None:
    (out / "fit").mkdir()
    sizes, tokens = (1e7, 3e7, 1e8, 3e8), (2e8, 1e9, 5e9, 2e10)
    rows = [
        f"{n:g},{d:g},{1.8 + 480 / n**0.35 + 2080 / d**0.37 + 0.002 * (-1) ** (i + j):.6f}"
        for i, n in enumerate(sizes)
        for j, d in enumerate(tokens)
    ]
    (directory / "chinchilla.csv").write_text("\n".join(["N,D,L", *rows]) + "\n")
    shares = [i / 10 for i in range(11)]
    rows = [f"{s:g},{1 - s:g},{2 + 0.8 * 2.718281828 ** (-1.5 * s) + 0.3 * s * s:.6f}" for s in shares]
    (directory / "mixing.csv").write_text("\n".join(["web,code,L", *rows]) + "\n")
    laws = {"chinchilla": ["--bootstraps", "20"], "mixing:web,code": ["--bootstraps", "0"]}
    for law, options in laws.items():
        name = law.partition(":")[0]
        succeed("fit", law, f"{name}.csv", "--out", f"{name}.json", "--starts", "5", *options, directory=directory)
        for suffix in ("csv", "json"):
            shutil.copy(directory / f"{name}.{suffix}", out / "fit")
    said = [{"words": words, "stdout": succeed("fit", *words, directory=directory)} for words in PREDICTIONS]
    write(out / "fit" / "predictions.json", said)


if __name__ == "__main__":
    assert Path.cwd() == ROOT, f"run it in {ROOT}"
    main()
