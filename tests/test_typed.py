"""Type checkers see the package's types (py.typed) in a user's file, without any plugin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RIGHT = """
from pathways_kernels.attention import Spans
from pathways_lite.recipe import WSD, AdamW, Data, Fraction, Mesh, Model, Recipe, Stage, Tokens


def recipe() -> Recipe:
    model = Model(d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128, vocab_size=257)
    data = Data(corpus="corpora/mine", seq_len=64)
    schedule = WSD(decay=Fraction(n=0.2))
    optimizer = AdamW(learning_rate=1e-3, schedule=schedule)
    base = Stage(model=model, data=data, optimizer=optimizer, batch_size=4, budget="2e5 tokens", mesh=Mesh(tensor=2))
    return Recipe(name="mine", stages=(base, base.model_copy(update={"budget": Tokens(n=100)})))


width: int = recipe().stages[0].model.d_model
amount: float = recipe().stages[0].budget.n
"""
WRONG = """
recipe().stages[0].model.d_modle
Stage(name="base", batch_sise=4)
layers: str = recipe().stages[0].model.n_layers
text: Spans = "all"
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says of both files and of a shipped recipe, by file."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(f"{RIGHT}{WRONG}")
    (folder / "demo.py").write_bytes((ROOT / "configs" / "demo.py").read_bytes())
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--config-file", "", "right.py", "wrong.py", "demo.py"]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    return {
        name: "\n".join(line for line in output.splitlines() if line.startswith(f"{name}:"))
        for name in ("right.py", "wrong.py", "demo.py")
    } | {"all": output}


def test_defaults_of_fields_are_named() -> None:
    """Type checkers take a field whose default is the first argument of Field for one that must be given."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
                assert not node.args, f"{path}:{node.lineno}: write Field(default=...)"


def test_recipes_have_no_false_errors(checked: dict[str, str]) -> None:
    assert "checked 3 source files" in checked["all"]
    assert checked["right.py"] == ""
    assert checked["demo.py"] == ""


def test_mistakes_in_a_recipe_are_found(checked: dict[str, str]) -> None:
    messages = checked["wrong.py"].splitlines()
    for mistake in ('no attribute "d_modle"', 'argument "batch_sise"', 'variable has type "str"', 'type "Spans"'):
        assert any(mistake in message for message in messages), (mistake, messages)
