"""Overrides: typed values by path, and sentences for what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small_recipes import make_recipe, make_stage
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    EMA,
    AdamW,
    Continue,
    EarlyStopping,
    Epochs,
    Flops,
    Frozen,
    Grow,
    LiGO,
    Merge,
    Muon,
    Net2Net,
    Prune,
    Regrowth,
    Steps,
    Tokens,
    apply_overrides,
    stage_identity,
)


def test_overrides_by_name_and_by_number() -> None:
    recipe = make_recipe(make_stage(), make_stage("more", start=Continue()))
    changed = apply_overrides(recipe, ["stages.base.optimizer.learning_rate=3e-4", "stages.1.batch_size=1e3", "seed=7"])
    assert changed.stages[0].optimizer.learning_rate == 3e-4
    assert changed.stages[1].batch_size == 1000
    assert isinstance(changed.stages[1].batch_size, int)
    assert changed.seed == 7
    assert recipe.seed == 0


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("stages.base.model.window=[null,32]", (None, 32)),
        ("stages.base.model.logit_soft_cap=none", None),
        ("stages.base.model.remat=none", "none"),
        ("stages.base.data.boundaries=none", "none"),
        ("stages.base.model.scan_layers=false", False),
        ("stages.base.model.attention=reference", "reference"),
        ("stages.base.data.corpus=123", "123"),
        ("stages.base.budget=2e6 tokens", {"kind": "tokens", "n": 2_000_000}),
        ('stages.base.batch_size={"steps": [[0, 8], [10, 16]]}', {"steps": ((0, 8), (10, 16))}),
        ("stages.base.optimizer.schedule.warmup=10 %", {"kind": "fraction", "n": 0.1}),
    ],
)
def test_values_are_parsed_by_the_type_of_the_field(override: str, value: object) -> None:
    node: object = apply_overrides(make_recipe(), [override]).stages[0].model_dump()
    for name in override.split("=")[0].split(".")[2:]:
        node = node[name]  # type: ignore[index]
    assert node == value


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("stages.base.start.of=[]", "stages.base.start.checkpoints=[]"),
        ("stages.base.start.of.0.weight=2", "stages.base.start.checkpoints.0.weight=2"),
        ("stages.base.data.round=0.5", "stages.base.data.rs2_fraction=0.5"),
        ("stages.base.pruning.every=3", "stages.base.pruning.update_every=3"),
        ("stages.base.pruning.regrowth.share=0.1", "stages.base.pruning.regrowth.fraction=0.1"),
    ],
)
def test_former_paths_are_overridden(former: str, current: str) -> None:
    pruning = Prune(sparsity=0.5, regrowth=Regrowth())
    base = make_recipe(make_stage(start=Merge(checkpoints=("runs/a", "runs/b")), pruning=pruning))
    changed = apply_overrides(base, [former])
    assert changed == apply_overrides(base, [current]) != base
    assert stage_identity(changed, 0) != stage_identity(base, 0)


@pytest.mark.parametrize(
    ("text", "operator"), [("ligo", LiGO()), ("LiGO", LiGO()), ("learned", LiGO()), ("net2net", Net2Net())]
)
def test_a_variant_is_named_by_its_kind_or_its_class(text: str, operator: Frozen) -> None:
    grown = make_recipe(make_stage(), make_stage("grown", start=Grow()))
    start = apply_overrides(grown, [f"stages.grown.start.operator={text}"]).stages[1].start
    assert isinstance(start, Grow)
    assert start.operator == operator


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("early_stopping.patience=2", "early_stopping", EarlyStopping(patience=2)),
        ("ema.decay=0.5", "ema", EMA(decay=0.5)),
        ("ema={}", "ema", EMA()),
        ("pruning.sparsity=0.5", "pruning", Prune(sparsity=0.5)),
        ("budget=60k steps", "budget", Steps(n=60_000)),
        ("budget=2.3M tokens", "budget", Tokens(n=2_300_000)),
        ("budget=1.5 B tokens", "budget", Tokens(n=1_500_000_000)),
        ("budget=60_000 steps", "budget", Steps(n=60_000)),
        ("budget=3 Epochs", "budget", Epochs(n=3)),
        ("budget=2 E flops", "budget", Flops(n=2e18)),
    ],
)
def test_fields_of_what_is_not_there_begin_at_its_defaults_and_amounts_have_prefixes(
    override: str, field: str, value: Frozen
) -> None:
    assert getattr(apply_overrides(make_recipe(), [f"stages.base.{override}"]).stages[0], field) == value


def test_a_path_that_any_stage_has_is_hinted_for_all() -> None:
    recipe = make_recipe(make_stage(), make_stage("more", start=Continue()))
    with pytest.raises(UserError, match=r"'stages\.base\.batch_size', or 'stages\.\*\.batch_size' for all stages\?$"):
        apply_overrides(recipe, ["batch_size=3"])


def test_switching_a_kind_resets_the_subtree_to_its_own_defaults() -> None:
    recipe = apply_overrides(
        make_recipe(make_stage(optimizer=AdamW(learning_rate=0.5, b1=0.1))), ["stages.base.optimizer=muon"]
    )
    assert recipe.stages[0].optimizer == Muon()
    recipe = apply_overrides(recipe, ["stages.base.optimizer=adamw"])
    assert recipe.stages[0].optimizer == AdamW()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.base.optimizr.learning_rate=1", "Did you mean 'optimizer'"),
        ("stages.bse.seed=1", "Did you mean 'base'"),
        ("stages.base.optimizer=mun", "Did you mean 'muon'"),
        ("stages.base.model.n_heads=3.5", "fractional part"),
        ("stages.base.optimizer.learning_rate=-1", "it must be above 0, not -1$"),
        ("stages.base.budget=3 apples", "unknown unit 'apples'"),
        ("stages.base.microbatch=3", "does not divide"),
        ("stages.base.data.rs2_fracton=0.5", "has no field 'rs2_fracton'. Did you mean 'rs2_fraction'"),
        ("stages.base.name.x=1", "has no field 'x'"),
        ("stages.base=1", "name a field of it"),
        ("stages.base.seed", "write path=value"),
        ("stages.base.optimizer.kind=muon", "kind"),
        ("stages.base.budget=60", "60 of what. Write e.g. '60 steps'; an amount is .*'2 epochs' or '10 % of STAGE'"),
        ("stages.base.budget=soon", "'soon' is not an amount; write e.g. '300 steps'"),
        ("stages.base.budget=5 %", "'5 %' of what. Name another stage, as in '5 % of STAGE'"),
        (
            "stages.base.optimizer.schedule.warmup=2 epochs",
            "'2 epochs' can be a budget only.* or a share such as '5 %'",
        ),
        ("stages.base.ema=0.99", r'EMA is expected, not 0\.99; write {"decay": 0\.99}$'),
        ("stages.base.statistics=10", r'Statistics is expected, not 10; write {"every": 10}$'),
        ("stages.base.mesh=4", "mesh=4: Mesh is expected, not 4$"),
        ("stages.base.batch_size=many", r"whole number or Ramp .*\]\]} is expected, not 'many'$"),
        ("stages.base.model.window=4", "a list is expected, not 4$"),
        ("stages.base.early_stopping=true", r"write {} \(in Python EarlyStopping\(\)\) for the defaults"),
        ("stages.base.ema=false", r"write none \(in Python None\) for no EMA"),
        ('stages.base.optimizer.groups=[{"lr": 1}]', "Did you mean 'rate'. There are: parameters, rate, weight_decay$"),
        ("stages.base.freeze=[]", "at least 1 is expected, not 0$"),
        ("stages.base.early_stopping.patiense=1", "Did you mean 'patience'"),
        ("stages.base.pruning.update_every=1", "sparsity is required"),
        ("stages.base.domain_weights.x=1", "domain_weights is none; choose what it is first"),
        ("stages.base.optimizer.groups.0.rate=1", "groups"),
        ("stages.base.optimizer.lr=1", "Did you mean 'learning_rate'"),
        ("stages.base.lr=1", r"Did you mean 'optimizer\.learning_rate'"),
        ("base.batch_size=8", r"Did you mean 'stages\.base\.batch_size'\?$"),
        ("budget=3 steps", r"Did you mean 'stages\.base\.budget'\?$"),
    ],
)
def test_a_wrong_override_says_what_to_type(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_overrides(make_recipe(), [override])


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_every_float_survives_an_override(value: float) -> None:
    changed = apply_overrides(make_recipe(), [f"stages.base.guard.threshold={value!r}"])
    assert changed.stages[0].guard.threshold == value
