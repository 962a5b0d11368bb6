"""Mistakes in recipe files are sentences with class, stage, a similar name and the line, never pydantic's dump."""

from pathlib import Path

import pytest

from pathways_lite.errors import UserError
from pathways_lite.recipe import load_recipe

HEAD = """from pathways_lite.recipe import *
M = Model(d_model=8, n_layers=1, n_heads=1, head_dim=8, d_ff=16, vocab_size=257)
D = Data(corpus="x", seq_len=8)
def recipe():
    base = Stage(model=M, data=D, optimizer=AdamW(), batch_size=2, budget="3 steps")
    return Recipe(
        name="x",
        stages=(
"""
TAIL = "        ),\n    )\n"
GOOD = 'Stage(name="a", model=M, data=D, optimizer=AdamW(), batch_size=2, budget="3 steps"),\n'


@pytest.mark.parametrize(
    ("stage", "line", "message"),
    [
        (
            'Stage(\n name="a",\n model=M,\n data=D,\n optimizr=AdamW(),\n batch_size=2, budget="3 steps"),\n',
            13,
            "stage 'a': Stage has no field 'optimizr'. Did you mean 'optimizer'? There are: name, start",
        ),
        (
            'Stage(name="a", model=M, data=D, optimizer=AdamW(\n b1=3), batch_size=2, budget="3 steps"),\n',
            10,
            "stage 'a': AdamW.b1: it must be below 1, not 3",
        ),
        (
            GOOD.replace("AdamW()", '"adamm"'),
            9,
            "Stage.optimizer: 'adamm' is text, but one of the classes is expected. ",
        ),
        (GOOD.replace("AdamW()", '"adamm"'), 9, "Did you mean 'AdamW'? There are: AdamW, Adafactor"),
        (GOOD.replace("AdamW()", '"muon"'), 9, "'muon' is text, but one of the classes is expected. Write Muon()"),
        (GOOD.replace("AdamW()", '{"kind": "adamm"}'), 9, "'adamm'. Did you mean 'adamw'? There are: adamw, "),
        (GOOD.replace("AdamW()", "Adamm()"), 9, "name 'Adamm' is not defined. Did you mean 'AdamW'?"),
        (GOOD.replace('"3 steps"', "Steps(100)"), 9, "Steps takes its fields by name: Steps(n=...)"),
        (GOOD.replace('"3 steps"', '"3 apples"'), 9, "stage 'a': Stage.budget: unknown unit 'apples'"),
        (GOOD.replace(", data=D", ""), 9, "stage 'a': Stage.data: Field required"),
        (GOOD.replace("batch_size=2", "batch_size=2, microbatch=5"), 9, "stage 'a': microbatch=5 does not divide"),
        ('base.model_copy(update={\n "name": "b",\n "batchsize": 3}),\n', 11, "Stage has no field 'batchsize'."),
        (GOOD.replace("batch_size=2", "batch_size=2, ema=0.99"), 9, "EMA is expected, not 0.99; write EMA(decay=0.99)"),
        (GOOD.replace("AdamW()", "AdamW(lr=1)"), 9, "AdamW has no field 'lr'. Did you mean 'learning_rate'?"),
        (GOOD.replace("batch_size=2", "batch_size=2, lr=1"), 9, "Did you mean 'optimizer.learning_rate'?"),
        (GOOD.replace('"3 steps"', "60"), 9, "Stage.budget: 60 of what? Write e.g. '60 steps'"),
        ("base.optimizr,\n", 9, "Stage has no field 'optimizr'. Did you mean 'optimizer'?"),
        ('base, base.model_copy(update={"name": "b"}),\n', 6, "stage 'b' has no start, so it would begin with random"),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line(stage: str, line: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + stage + TAIL)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)
    assert "pydantic" not in str(error.value)
    assert "function-" not in str(error.value)


def test_a_change_of_a_recipe_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + GOOD + TAIL + "r = recipe()\nr.stages[0].batch_size = 4\n")
    with pytest.raises(UserError, match=r"mine\.py:13: Stage\.batch_size: recipes are immutable: use model_copy"):
        load_recipe(path)


def test_one_stage_alone_is_no_tuple_of_stages(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD.replace("stages=(", "stages=base,").rstrip() + "\n    )\n")
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value).endswith("not one Stage alone: write (base,), with a comma before the parenthesis")
    assert "\n" not in str(error.value)


def test_a_class_that_cannot_be_imported_has_a_similar_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from pathways_lite.recipe import Recipe, Adamm\n")
    with pytest.raises(
        UserError, match=r"mine\.py:1: there is no 'Adamm' in pathways_lite.recipe. Did you mean 'AdamW'"
    ):
        load_recipe(path)


def test_json_names_stages_and_no_alternatives_of_types(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + GOOD + TAIL)
    path = tmp_path / "recipe.json"
    text = load_recipe(tmp_path / "mine.py").model_dump_json()
    path.write_text(text.replace('"b1":0.9', '"b1":7').replace('"batch_size":2', '"batch_size":2.5'))
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert "stages.a.optimizer.b1: it must be below 1, not 7" in str(error.value)
    assert 'stages.a.batch_size: a whole number or Ramp {"steps": ' in str(error.value)
    assert "is expected, not 2.5" in str(error.value)
    assert "function-" not in str(error.value)
