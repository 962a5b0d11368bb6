"""Shared parts of the commands of `pathways-lite study`: the study that arguments name, and its plan."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.errors import UserError
from pathways_lite.paths import local_path
from pathways_lite.shipped_recipes import recipe_file

if TYPE_CHECKING:
    from pathways_lite.studies.plan import Probe, StudyPlan
    from pathways_lite.studies.study import Study

StudyPath = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        parser=local_path,
        help="a Python file with a function study(), the name of one that comes with the package (see recipe list), "
        "or the directory of a study that was run",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help='path=value, for every recipe, e.g. stages.base.budget="20 steps"')
]
Out = Annotated[
    Path | None, typer.Option(parser=local_path, help="directory of the study; default: runs/NAME of the study")
]
Jobs = Annotated[int, typer.Option(min=1, help="number of concurrent nodes; on CPUs each gets its own cores")]
Samples = Annotated[bool, typer.Option("--samples", help="generate text at the end of every node")]


@dataclass(frozen=True)
class NamedStudy:
    """A study, what it was loaded from, and its directory."""

    study: Study
    file: Path
    overrides: tuple[str, ...]
    out: Path
    name: str = ""  # what was typed, of one that comes with the package

    @property
    def arguments(self) -> list[str]:
        """The words with which a command on the study names it."""
        is_default = self.out == Path("runs") / self.study.name
        return [self.name or str(self.file), *self.overrides, *([] if is_default else ["--out", str(self.out)])]

    def corpora_to_read(self) -> list[str]:
        """Return the corpora of all recipes, of a study that has not run: finished nodes do not need theirs."""
        if self.out.exists():
            return []
        return [stage.data.corpus for recipe in self.study.recipes.values() for stage in recipe.stages]

    def command(self, name: str, *options: str) -> str:
        """Return the command `study NAME` for this study, as it is typed."""
        return shlex.join(["pathways-lite", "study", name, *self.arguments, *options])


def named_study(path: Path, overrides: list[str] | None, out: Path | None) -> NamedStudy:
    """Load the study of a file, or the one that a directory has results of, whose own overrides come first.

    Raises UserError for a directory that does not say of which file its study is.
    """
    from pathways_lite.studies.study import load_study

    given = tuple(overrides or ())
    if path.is_dir():
        file, recorded = _source_of(path)
        return NamedStudy(load_study(file, [*recorded, *given]), file, (*recorded, *given), out or path)
    loaded, file = load_study(path, given), recipe_file(path)
    name = "" if file == path else str(path)
    return NamedStudy(loaded, file, given, out or Path("runs") / loaded.name, name)


def _source_of(directory: Path) -> tuple[Path, list[str]]:
    """Return the file and the overrides of the study that a directory has results of."""
    from pathways_lite.run_directory import study_hint
    from pathways_lite.studies.index import read_study_source

    if not study_hint(directory):
        raise UserError(f"{directory} is not the directory of a study; name a Python file with a function study()")
    advice = f"name the Python file, as in `pathways-lite study report FILE --out {directory}`"
    if (source := read_study_source(directory)) is None:
        raise UserError(f"{directory} does not say of which file its study is; {advice}")
    absolute, overrides = Path(source[0]), source[1]
    if not absolute.is_file():
        raise UserError(f"{directory} is of the study in {absolute}, which is not there any more; {advice}")
    here = Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute, overrides


def make_plan(named: NamedStudy, probe: Probe | None = None, *, trains: bool = False) -> StudyPlan:
    """Plan the study; where it `trains` and a node is left, all corpora have to be there."""
    from pathways_lite.studies.plan import plan_study, resolve_study, study_store

    loaded, out = named.study, named.out
    try:
        resolved = resolve_study(loaded, None if trains else out)
    except UserError:
        if not trains:
            raise
        resolved = resolve_study(loaded, out)  # what finished nodes have read need not be there
        if any(state != "done" for state in study_store(resolved, out).states().values()):
            raise
    return plan_study(resolved, out, probe)
