"""Values that cannot be meant are refused in recipes and overrides, and overrides hold together."""

import itertools
import json
import re
from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Stage, Steps, apply_overrides, read_recipe


def make_recipe() -> Recipe:
    model = Model(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32, vocab_size=64)
    data = Data(corpus="corpora/x", seq_len=8)
    stage = Stage(name="base", model=model, data=data, optimizer=AdamW(), batch_size=4, budget=Steps(n=10))
    return Recipe(name="r", stages=(stage,))


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.learning_rate=Infinity",
        "optimizer.learning_rate=NaN",
        "optimizer.learning_rate=1e400",
        "optimizer.learning_rate=50",
        "optimizer.weight_decay=-Infinity",
        "optimizer.weight_decay=1e4",
        "optimizer.b1=1.5",
        "optimizer.b2=1",
        "optimizer.b1=-0.1",
        "optimizer.epsilon=-1",
        "optimizer.clip_norm=inf",
        'optimizer={"kind": "muon", "momentum": 1}',
        "optimizer.schedule.end=NaN",
        "optimizer.schedule.warmup=1e999 steps",
        "model.norm_epsilon=NaN",
        "model.norm_epsilon=-1e-6",
        "model.rope_base=0",
        "model.n_layers=true",
        "model.dropout=false",
        "model.logit_soft_cap=Infinity",
        "model.window=[true]",
        "batch_size=true",
        "microbatch=true",
        'budget={"kind": "steps", "n": true}',
        "budget=1e400 tokens",
        'objective={"kind": "causal", "z_loss": Infinity}',
        "guard.threshold=NaN",
        'data.mixture={"phases": [{"weights": {"kind": "given", "weights": {"a": true}}}]}',
        'data.mixture={"phases": [{"weights": {"kind": "given", "weights": {"a": NaN}}}]}',
        "log_every=true",
    ],
)
def test_what_is_not_a_number_is_refused_by_overrides_and_in_json(override: str, tmp_path: Path) -> None:
    recipe = make_recipe()
    with pytest.raises(UserError, match=re.escape(override.partition("=")[0].rpartition(".")[2])):
        apply_overrides(recipe, [f"stages.base.{override}"])
    path, _, text = override.partition("=")
    content = json.loads(recipe.model_dump_json())
    *parents, last = path.split(".")
    node = content["stages"][0]
    for name in parents:
        node = node[name]
    try:
        node[last] = json.loads(text)
    except ValueError:
        node[last] = text
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=last):
        read_recipe(tmp_path / "recipe.json")


def test_true_and_false_stay_what_they_are_where_they_belong() -> None:
    assert apply_overrides(make_recipe(), ["stages.base.model.qk_norm=true"]).stages[0].model.qk_norm is True


def test_overrides_that_are_right_only_together_are_accepted_in_any_order() -> None:
    overrides = ["stages.base.microbatch=3", "stages.base.batch_size=6", "stages.base.model.n_heads=6"]
    overrides.append("stages.base.model.n_kv_heads=3")
    for order in itertools.permutations(overrides):
        stage = apply_overrides(make_recipe(), order).stages[0]
        assert (stage.batch_size, stage.microbatch, stage.model.n_heads, stage.model.n_kv_heads) == (6, 3, 6, 3)
    with pytest.raises(UserError, match=r"^stages\.base\.microbatch=4 stages\.base\.batch_size=6: .*does not divide"):
        apply_overrides(make_recipe(), ["stages.base.microbatch=4", "stages.base.batch_size=6", "seed=3"])
    with pytest.raises(
        UserError, match=r"^stages\.base\.optimizer\.weight_decay=0\.2 .*learning_rate=9: .*together 1\.8"
    ):
        apply_overrides(
            make_recipe(),
            [
                "stages.base.optimizer=lion",
                "stages.base.optimizer.weight_decay=0.2",
                "stages.base.optimizer.learning_rate=9",
            ],
        )


@pytest.mark.parametrize(
    ("override", "only"),
    [
        ('optimizer={"kind": "adamw", "b1": 2}', "below 1, not"),
        ('optimizer={"kind": "lion", "momentum": 0.5}', "Lion has no field 'momentum'"),
        ('start={"kind": "grow", "noise": 7}', "at most 1, not"),
        ('objective={"kind": "span_corruption", "rate": 1.5}', "below 1, not"),
    ],
)
def test_a_wrong_value_of_a_union_is_explained_by_the_member_that_it_names(override: str, only: str) -> None:
    with pytest.raises(UserError) as error:
        apply_overrides(make_recipe(), [f"stages.base.{override}"])
    assert only in str(error.value)
    assert str(error.value).count(";") == 0, "one problem, not one per member"
