"""The reference of recipes tells what is there, and values are shown as the overrides that set them."""

from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe import AdamW, Recipe, apply_overrides, load_recipe
from pathways_lite.recipe.fields import describe_path, override_values, recipe_classes

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.py"))


def recipe_of(path: Path) -> Recipe:
    return load_recipe(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_values_are_overrides_that_change_nothing(path: Path) -> None:
    recipe = recipe_of(path)
    overrides = [f"{name}={value}" for name, value in override_values(recipe).items()]
    assert len(overrides) > 50 * len(recipe.stages)
    assert apply_overrides(recipe, overrides) == recipe


def test_changed_values_set_a_recipe_of_defaults() -> None:
    demo = load_recipe(CONFIGS[[path.stem for path in CONFIGS].index("demo")])
    changed = override_values(demo, changed=True)
    assert changed.keys() < override_values(demo).keys()
    assert "stages.base.optimizer.b1" not in changed
    other = apply_overrides(demo, ["stages.base.model.d_model=64", "stages.base.optimizer=muon", "name=other"])
    assert apply_overrides(other, [f"{name}={value}" for name, value in changed.items()]) == demo


@pytest.mark.parametrize("text", ["5 %", "33.3 %", "1 %"])
def test_amounts_are_written_as_people_write_them(text: str) -> None:
    demo = load_recipe(CONFIGS[[path.stem for path in CONFIGS].index("demo")])
    recipe = apply_overrides(demo, [f"stages.base.optimizer.schedule.warmup={text}"])
    assert override_values(recipe)["stages.base.optimizer.schedule.warmup"] == text


def test_an_amount_without_a_short_form_is_exact() -> None:
    demo = load_recipe(CONFIGS[[path.stem for path in CONFIGS].index("demo")])
    recipe = apply_overrides(demo, ['stages.base.optimizer.schedule.warmup={"kind":"fraction","n":0.123456789012345}'])
    overrides = [f"{name}={value}" for name, value in override_values(recipe).items()]
    assert apply_overrides(demo, overrides) == recipe


def test_every_field_of_every_class_has_a_meaning() -> None:
    missing = [
        f"{cls.__name__}.{name}"
        for cls in recipe_classes()
        for name, field in cls.model_fields.items()
        if name != "kind" and not field.description
    ]
    assert missing == []
    assert all(describe_path(cls.__name__)[0].summary for cls in recipe_classes())


@pytest.mark.parametrize(
    ("path", "classes"),
    [
        ("", ["Recipe"]),
        ("stages", ["Stage"]),
        ("stages.base", ["Stage"]),
        ("stages.0.model", ["Model"]),
        ("stages.model", ["Model"]),
        ("stages.start", ["Scratch", "Continue", "Grow", "Merge", "Restore"]),
        ("stages.optimizer.momentum", ["Muon", "SGD"]),
        ("stages.pruning.regrowth", ["Regrowth"]),
        ("AdamW", ["AdamW"]),
        ("adamw", ["AdamW"]),
        ("net2net", ["Net2Net"]),
        ("stages.optimizer.muon", ["Muon"]),
        ("stages.*.data", ["Data"]),
    ],
)
def test_a_path_leads_to_the_classes_that_may_be_there(path: str, classes: list[str]) -> None:
    assert [cls.name for cls in describe_path(path)] == classes


def test_a_plain_field_is_shown_alone_with_type_bounds_and_default() -> None:
    (stage,) = describe_path("stages.base.log_every")
    (row,) = stage.fields
    assert (row.name, row.type, row.default) == ("log_every", "integer, ≥ 1", "10")
    (stage,) = describe_path("stages.budget")
    assert stage.fields[0].default == "required"
    assert "300 steps" in stage.fields[0].type


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("stages.modl", "stages has no field 'modl'. Did you mean 'model'?"),
        ("stages.base.optimizer.learningrate", "Did you mean 'learning_rate'?"),
        ("stages.base.batch_size.n", "batch_size"),
        ("stagess", "a recipe has no field 'stagess'. Did you mean 'stages'?"),
        ("adamm", "there is no 'adamm'. Did you mean 'AdamW'? There are: adamw, adafactor, lion, muon"),
        ("stages.optimizer.adamm", "Did you mean 'AdamW'? There are: adamw, adafactor, lion, muon"),
        ("stages.base.start.operator.ligoo", "Did you mean 'LiGO'? There are: stack, interpolate"),
        ("stages.budget.n", "stages.budget is a value and has no field 'n'"),
    ],
)
def test_a_wrong_path_is_told_with_what_is_there(path: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        describe_path(path)
    assert sentence in str(error.value)


def test_a_field_that_takes_a_number_or_a_class_shows_both() -> None:
    owner, ramp = describe_path("stages.batch_size")
    assert (owner.name, [row.name for row in owner.fields]) == ("Stage", ["batch_size"])
    assert ramp.name == "Ramp"


def test_a_default_rate_is_not_shown_beside_a_relative_one() -> None:
    assert "learning_rate" not in override_values(AdamW(relative_learning_rate=1.0))
    assert override_values(AdamW(relative_learning_rate=1.0, learning_rate=1e-3))["learning_rate"] == "0.001"
    assert override_values(AdamW())["learning_rate"] == "0.0003"
