"""A recipe is typed, frozen, and survives JSON. Its identity changes exactly with what determines the result."""

import json
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from helpers.small_recipes import MODEL, make_recipe, make_stage
from pathways_lite import recipe as recipe_package
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    Adafactor,
    Continue,
    Data,
    Frozen,
    GivenWeights,
    Merge,
    Model,
    Muon,
    Prune,
    Ramp,
    Recipe,
    Regrowth,
    Restore,
    Scratch,
    Stage,
    Steps,
    Temperature,
    TopLosses,
    apply_overrides,
    identity_differences,
    load_recipe,
    read_recipe,
    stage_identity,
    write_recipe,
)
from pathways_lite.recipe.identity import identity_fields

# ---- typed and frozen ----


def test_nodes_are_immutable_and_refuse_unknown_fields() -> None:
    recipe = make_recipe()
    with pytest.raises(ValidationError):
        recipe.seed = 1
    with pytest.raises(ValidationError, match="n_layer"):
        Model(d_model=64, n_layer=4, n_layers=4, n_heads=2, head_dim=32, d_ff=256, vocab_size=512)


@pytest.mark.parametrize(
    ("text", "kind", "n"),
    [
        ("300 steps", "steps", 300),
        ("1 step", "steps", 1),
        ("2e6 tokens", "tokens", 2_000_000),
        ("1.5e15 FLOPs", "flops", 1.5e15),
    ],
)
def test_a_budget_is_an_amount_with_a_unit(text: str, kind: str, n: float) -> None:
    budget = make_stage(budget=text).budget
    assert (budget.kind, budget.n) == (kind, n)


@pytest.mark.parametrize("text", ["300", "3 apples", "5 %", "-3 steps", "1.5 steps", "0 steps"])
def test_other_texts_are_not_budgets(text: str) -> None:
    with pytest.raises(ValidationError):
        make_stage(budget=text)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 3},
        {"head_dim": 31},
        {"window": (8, 8, 8)},
        {"window": ()},
        {"window": (0,)},
        {"d_model": 0},
    ],
)
def test_impossible_models_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Model(**{**MODEL.model_dump(), **changes})


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1.0])
def test_weights_of_domains_are_finite_and_not_negative(number: float) -> None:
    with pytest.raises(ValidationError):
        GivenWeights.model_validate({"weights": {"math": number}})
    with pytest.raises(ValidationError):
        Temperature.model_validate({"upsample": {"math": number}})


def test_impossible_chains_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs a stage before it"):
        make_recipe(make_stage(start=Continue()))
    with pytest.raises(ValidationError, match="must differ"):
        make_recipe(make_stage(), make_stage(start=Continue()))
    with pytest.raises(ValidationError, match="does not divide"):
        make_stage(batch_size=Ramp(steps=((0, 8), (10, 12))), microbatch=8)


# ---- JSON ----


def test_a_resolved_recipe_loads_back_equal(tmp_path: Path) -> None:
    recipe = make_recipe(
        make_stage(optimizer=Adafactor(), batch_size=Ramp(steps=((0, 4), (50, 8)))),
        make_stage("more", start=Continue(optimizer="keep"), optimizer=Muon(learning_rate=0.1 + 0.2)),
        make_stage("other", start=Restore(path="runs/x")),
    )
    write_recipe(recipe, tmp_path / "recipe.json")
    assert read_recipe(tmp_path / "recipe.json") == recipe


def test_a_file_that_is_not_a_recipe_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match="stages: Field required"):
        read_recipe(path)


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(path)
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"has no function recipe\(\)"):
        load_recipe(path)
    path.write_text("def recipe():\n    return 3\n")
    with pytest.raises(UserError, match="returned int"):
        load_recipe(path)
    path.write_text("def recipe(:\n")
    with pytest.raises(UserError, match=r"x\.py:1"):
        load_recipe(path)
    path.write_text(
        "from pathways_lite.recipe import *\n"
        "def recipe():\n"
        "    return Model(d_model=64, n_layers=2, n_heads=3, n_kv_heads=2, head_dim=32, d_ff=256, vocab_size=512)\n"
    )
    with pytest.raises(UserError, match="n_heads=3 is not a multiple of n_kv_heads=2"):
        load_recipe(path)


# ---- names ----


def exports(module: ModuleType) -> dict[str, object]:
    """Return what `from module import *` binds."""
    namespace: dict[str, object] = {}
    exec(f"from {module.__name__} import *", namespace)
    return {name: value for name, value in namespace.items() if name != "__builtins__"}


def test_the_package_exports_what_its_modules_export_and_nothing_else() -> None:
    modules = [
        import_module(f"{recipe_package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(recipe_package.__path__)
    ]
    listed = [name for module in modules for name in module.__all__]
    assert len(set(listed)) == len(listed)
    assert set(recipe_package.__all__) == {*listed, *recipe_package._FORMER_NAMES}
    assert exports(recipe_package).keys() == set(recipe_package.__all__)


def test_every_public_class_of_a_module_is_exported() -> None:
    for info in pkgutil.iter_modules(recipe_package.__path__):
        module = import_module(f"{recipe_package.__name__}.{info.name}")
        classes = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        assert classes <= set(module.__all__)


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("Blocks", "BlockOrder"),
        ("Direct", "Net2Net"),
        ("Earlier", "CheckpointRef"),
        ("Given", "GivenWeights"),
        ("Learned", "LiGO"),
        ("Mixture", "MixtureOfDenoisers"),
        ("Random", "MaskedGrowth"),
        ("Top", "TopLosses"),
        ("Weighted", "WeightedDenoiser"),
        ("Zero", "ZeroInit"),
    ],
)
def test_former_class_names_are_importable(former: str, current: str) -> None:
    assert getattr(recipe_package, former) is getattr(recipe_package, current)
    assert exports(recipe_package)[former] is exports(recipe_package)[current]


RENAMED_FIELDS = [
    (Merge, {}, "checkpoints", "of", [{"path": "runs/x"}]),
    (Data, {"corpus": "corpora/x", "seq_len": 64}, "rs2_fraction", "round", 0.25),
    (Prune, {"sparsity": 0.5}, "update_every", "every", 7),
    (Temperature, {}, "upsample", "times", {"math": 8}),
    (Regrowth, {}, "fraction", "share", 0.2),
    (TopLosses, {}, "fraction", "share", 0.25),
]


@pytest.mark.parametrize(("cls", "fields", "name", "former", "value"), RENAMED_FIELDS)
def test_a_renamed_field_is_read_by_both_names_and_written_by_the_new(
    cls: type[Frozen], fields: dict[str, object], name: str, former: str, value: object
) -> None:
    node = cls(**fields, **{name: value})
    assert cls(**fields, **{former: value}) == node
    assert cls.model_validate_json(json.dumps({**fields, former: value})) == node
    assert cls.model_validate_json(node.model_dump_json()) == node
    assert cls(**fields).model_copy(update={former: getattr(node, name)}) == node
    assert getattr(node, former) == getattr(node, name)
    assert name in node.model_dump()
    assert former not in node.model_dump()
    with pytest.raises(ValidationError, match=f"'{former}' is the former name of '{name}'; give '{name}' alone"):
        cls(**fields, **{name: value, former: value})


@pytest.mark.parametrize(("cls", "fields", "name", "former", "value"), RENAMED_FIELDS)
def test_the_identity_has_the_former_name(
    cls: type[Frozen], fields: dict[str, object], name: str, former: str, value: object
) -> None:
    hashed = identity_fields(cls(**fields, **{name: value}))
    assert former in hashed
    assert name not in hashed


def test_identity_differences_have_the_new_names() -> None:
    old, new = (make_recipe(make_stage(data=Data(corpus="x", seq_len=64, rs2_fraction=n))) for n in (0.5, 0.25))
    assert identity_differences(old, new, 0) == ["stages.base.data.rs2_fraction: 0.5 in the run, 0.25 in this recipe"]


# ---- identity ----


def test_identity_changes_with_what_determines_the_result() -> None:
    base = make_recipe()
    same = [
        "stages.base.name=other",
        "stages.base.evaluation.every=7",
        "stages.base.saving.keep=9",
        "stages.base.log_every=3",
        "stages.base.data.corpus=elsewhere",
        "stages.base.data.threads=7",
        "name=another",
    ]
    different = [
        "seed=1",
        "stages.base.budget=101 steps",
        "stages.base.optimizer.b2=0.96",
        "stages.base.model.n_layers=5",
        "stages.base.data.fingerprint=abc",
        "stages.base.data.shuffle_seed=1",
        "stages.base.microbatch=4",
        "stages.base.objective.z_loss=0",
    ]
    identity = stage_identity(base, 0)
    assert {stage_identity(apply_overrides(base, [o]), 0) for o in same} == {identity}
    others = {stage_identity(apply_overrides(base, [o]), 0) for o in different}
    assert len(others | {identity}) == len(different) + 1


def test_an_unused_method_does_not_change_the_identity() -> None:
    class LaterStage(Stage):
        """A stage of a later version, with another optional method."""

        new_method: float | None = None

    stage, later = make_stage(), LaterStage(**make_stage().model_dump())
    assert identity_fields(later) == identity_fields(stage)
    assert identity_fields(later.model_copy(update={"new_method": 0.0})) != identity_fields(stage)


def test_shared_first_stages_have_the_same_identity() -> None:
    trunk = make_stage()
    first = make_recipe(trunk, make_stage("a", start=Continue()))
    second = make_recipe(trunk, make_stage("b", start=Continue(), batch_size=16))
    assert stage_identity(first, 0) == stage_identity(second, 0)
    assert stage_identity(first, 1) != stage_identity(second, 1)
    longer_trunk = apply_overrides(first, ["stages.base.budget=200 steps"])
    assert stage_identity(longer_trunk, 1) != stage_identity(first, 1)


# ---- what is never silent ----


def test_a_later_stage_says_how_it_starts() -> None:
    later = make_stage("more")
    with pytest.raises(
        ValidationError, match=r"stage 'more' has no start.*random parameters: write start=Continue\(\)"
    ):
        make_recipe(make_stage(), later)
    with pytest.raises(ValidationError, match="has no start"):
        make_recipe(make_stage(), make_stage().model_copy(update={"name": "more"}))
    chain = make_recipe(make_stage(), make_stage("more", start=Scratch()))
    # Neither a copy nor an override nor a file forgets that it was written, or adds it.
    assert apply_overrides(chain, ["stages.more.batch_size=4"]).stages[1].start == Scratch()
    assert Recipe.model_validate_json(chain.model_dump_json()) == chain
    single = apply_overrides(make_recipe(), ["stages.base.batch_size=4"])
    with pytest.raises(ValidationError, match="has no start"):
        make_recipe(make_stage(), single.stages[0].model_copy(update={"name": "more"}))


def test_a_recipe_of_an_earlier_version_without_starts_in_it_loads() -> None:
    """Stored recipes spell out every default, so those that were random parameters before are so still."""
    chain = make_recipe(make_stage(), make_stage("more", start=Scratch()))
    stored = json.loads(chain.model_dump_json())
    assert stored["stages"][1]["start"] == {"kind": "scratch"}
    assert stage_identity(Recipe.model_validate(stored), 1) == stage_identity(chain, 1)


def test_a_copy_is_validated() -> None:
    stage = make_stage()
    assert stage.model_copy(update={"budget": "30 steps"}).budget == Steps(n=30)
    assert stage.model_copy(update={"budget": "30 steps"}) == make_stage(budget="30 steps")
    assert stage.model_copy(update={"name": "more"}).model_fields_set == stage.model_fields_set
    assert stage.model_copy() == stage
    with pytest.raises(ValidationError, match=r"Stage has no field 'batchsize'. Did you mean 'batch_size'"):
        stage.model_copy(update={"batchsize": 4})
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        stage.model_copy(update={"microbatch": 0})
    with pytest.raises(ValidationError, match="does not divide"):
        stage.model_copy(update={"microbatch": 3})
