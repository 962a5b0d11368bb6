"""`pathways-lite recipe`: the recipes that come with the package; fields and values of recipes; how two differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.overrides import Overrides
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.console import Console
    from pathways_lite.recipe import Recipe
    from pathways_lite.recipe.fields import ClassFields

app = typer.Typer(
    no_args_is_help=True,
    help="List the recipes that come with the package, look up fields and values of recipes, and compare two.",
    rich_markup_mode="markdown",
)
RecipeFile = Annotated[
    Path,
    typer.Argument(parser=local_path, help="a recipe's file, or name (recipe list), its JSON, or a run directory"),
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes and studies that come with the package. Their names stand in the place of files.

    Examples:

    - `pathways-lite recipe list`

    - `pathways-lite train demo --dry-run`

    - `pathways-lite study plan studies/ul2r`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.shipped_recipes import shipped_recipes

    shipped = shipped_recipes()
    if as_json:
        print_json([{"name": one.name, "defines": one.defines, "summary": one.summary} for one in shipped])
        return
    table = Table("name", "for", "what it is")
    for one in shipped:
        table.add_row(one.name, " and ".join(_USERS[kind] for kind in one.defines), one.summary)
    console = Console()
    console.print(table)
    console.print("`pathways-lite recipe copy NAME FILE` writes one as a file to change", soft_wrap=True)


_USERS = {"recipe": "train", "study": "study run"}


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="the name of a recipe or study that comes with the package")],
    file: Annotated[
        Path | None, typer.Argument(parser=local_path, help="where to write it; default: its last name here")
    ] = None,
) -> None:
    """Write a recipe or study that comes with the package as a file of one's own, to change it.

    Example: `pathways-lite recipe copy demo mine.py`, then `pathways-lite train mine.py --dry-run`
    """
    from pathways_lite.errors import UserError, did_you_mean
    from pathways_lite.shipped_recipes import copy_recipe, shipped_paths

    paths = shipped_paths()
    if name not in paths:
        raise UserError(
            f"no recipe or study {name!r} comes with the package; `pathways-lite recipe list` lists them."
            + did_you_mean(name, paths, listed=False)
        )
    for written in copy_recipe(paths[name], file or Path(f"{Path(name).name}.py")):
        typer.echo(f"{written}: written")


@app.command()
def fields(
    path: Annotated[
        str, typer.Argument(help="a field as in overrides, e.g. stages.optimizer, or a class, e.g. AdamW")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="print the whole reference, docs/recipe.md")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the fields of recipes with their types, defaults and meaning; of a field with variants, all variants.

    Names of stages may be left out of PATH. Without PATH: the fields of a recipe and of a stage.

    Examples:

    - `pathways-lite recipe fields`

    - `pathways-lite recipe fields stages.optimizer`

    - `pathways-lite recipe fields stages.data.mixture`
    """
    from dataclasses import asdict

    from pathways_lite.console import Console
    from pathways_lite.recipe.fields import describe_path

    if markdown:
        typer.echo(reference(), nl=False)
        return
    classes = describe_path(path) if path else [*describe_path(""), *describe_path("stages")]
    if as_json:
        print_json([asdict(cls) for cls in classes])
        return
    console = Console()
    for cls in classes:
        _print_class(console, cls)


def _print_class(console: Console, cls: ClassFields) -> None:
    from rich.text import Text

    from pathways_lite.console import Table

    name = f"{cls.name} ({cls.kind})" if cls.kind else cls.name
    console.print(Text.assemble((name, "bold"), f"  {cls.summary}"))
    if cls.fields:
        table = Table("field", "type", "default", "meaning")
        for row in cls.fields:
            table.add_row(row.name, row.type, row.default, row.description)
        console.print(table)
    console.print()


def reference() -> str:
    """Return the reference of all recipe classes in Markdown."""
    from pathways_lite.recipe.fields import describe_class, recipe_classes

    lines = [
        "# Recipe reference",
        "",
        "Every class that a recipe may contain, with its fields. `pathways-lite recipe fields PATH` shows the same for",
        "one field; this page is its `--markdown` output. In parentheses after a class: the name by which overrides",
        "select it (`stages.base.optimizer=muon`). A *list* is written as JSON in overrides, and an *amount* as text.",
        "",
        "An *amount* is a number and its unit: `300 steps`, `60k steps`, `2.5M tokens`, `1e15 flops`. k, M, G or B, T,",
        "P and E before the unit are powers of a thousand. A point in a stage may also be a share of its budget,",
        "`5 %`, and a budget `2 epochs` of the corpus or `10 % of base`, another stage. Other numbers are plain,",
        "`4096` or `3e-4`; tables and options of fits take suffixes too, `N=7B D=2T`, and so do sizes of files, `5GB`.",
        "",
    ]
    for cls in map(describe_class, recipe_classes()):
        title = f"## {cls.name}" + (f" (`{cls.kind}`)" if cls.kind else "")
        lines += [title, "", cls.summary, ""]
        if cls.fields:
            lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
            rows = ((f"`{row.name}`", row.type, f"`{row.default}`", row.description) for row in cls.fields)
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
            lines.append("")
    return "\n".join(lines)


@app.command()
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="only what differs from the defaults")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every value of a recipe as an override that would set it: `stages.base.batch_size=32`.

    Examples:

    - `pathways-lite recipe show configs/demo.py --changed`

    - `pathways-lite recipe show configs/demo.py stages.base.optimizer=muon | grep optimizer`

    - `pathways-lite recipe show runs/demo --json`
    """
    from pathways_lite.recipe import apply_overrides
    from pathways_lite.recipe.fields import override_values

    loaded = apply_overrides(_load(recipe), overrides or ())
    if as_json:
        print_json(loaded.model_dump(mode="json"))
        return
    for path, value in override_values(loaded, changed=changed).items():
        typer.echo(f"{path}={value}")


@app.command()
def diff(a: RecipeFile, b: RecipeFile, as_json: AsJson = False) -> None:
    """Show where two recipes differ, and which of their stages give the same result all the same.

    Two stages of the same identity compute the same: they may differ in names, paths, meshes, and in how often they
    save or log. Where one of them is a run's, in which digests and defaults are filled in, the other is resolved
    first. The exit status is 0 if the recipes are equal and 1 if they differ.

    Examples:

    - `pathways-lite recipe diff runs/base runs/variant`

    - `pathways-lite recipe diff configs/demo.py runs/demo`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.recipe import recipe_differences, stage_identity

    recipes = _resolved_alike({a: _load(a), b: _load(b)}) if a != b else [_load(a)] * 2
    differences = recipe_differences(recipes)
    identities = [
        {stage.name: stage_identity(recipe, index) for index, stage in enumerate(recipe.stages)} for recipe in recipes
    ]
    same = [name for name in identities[0] if identities[0][name] == identities[1].get(name)]
    if as_json:
        rows = [{"path": path, "a": old, "b": new} for path, (old, new) in differences.items()]
        print_json({"differences": rows, "stages_with_the_same_identity": same})
        raise typer.Exit(1 if differences else 0)
    if not differences:
        typer.echo("the recipes are equal")
        return
    console = Console()
    table = Table("field", str(a), str(b))
    for path, values in differences.items():
        table.add_row(path, *("–" if value is None else value for value in values))
    console.print(table)
    shared = f"stages of the same identity, which compute the same: {', '.join(same)}"
    console.print(shared if same else "no stage has the same identity in both: their results differ")
    raise typer.Exit(1)


def _resolved_alike(recipes: dict[Path, Recipe]) -> list[Recipe]:
    """Return recipes as they can be compared: where one of them is resolved, the others are resolved too."""
    from pathways_lite.errors import UserError

    def is_resolved(recipe: Recipe) -> bool:
        return any(stage.data.fingerprint is not None for stage in recipe.stages)

    if not any(map(is_resolved, recipes.values())):
        return list(recipes.values())
    from pathways_lite.training.resolve import resolve_recipe

    comparable = []
    for path, recipe in recipes.items():
        try:
            comparable.append(recipe if is_resolved(recipe) else resolve_recipe(recipe))
        except UserError as error:
            typer.echo(f"note: {path} is compared as it is written, as it cannot be resolved here: {error}", err=True)
            comparable.append(recipe)
    return comparable


def _load(path: Path) -> Recipe:
    from pathways_lite.recipe import load_recipe
    from pathways_lite.run_directory import RunDirectory

    return RunDirectory(path).recipe() if path.is_dir() else load_recipe(path)
