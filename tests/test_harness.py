"""lm-evaluation-harness: requests as `lm_eval --model hf` answers them, tasks on the command line, offline."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.harness_tasks import MULTIPLE_CHOICE, write_tasks
from helpers.published_tokenizers import published, write_model
from pathways_lite import models
from pathways_lite.cli.main import app
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.evaluation.bits import Evaluator, ScoredDocument
from pathways_lite.training.load import load_model

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")

from lm_eval.api.instance import Instance

from pathways_lite.harness import PathwaysLM

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "make_lm_eval_goldens.py"
GOLDEN = json.loads((ROOT / "tests" / "evaluation" / "lm_eval_golden.json").read_text())
TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)

sys.path.insert(0, str(TOOL.parent))
import make_lm_eval_goldens as tool  # noqa: E402

sys.path.pop(0)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of 300 byte-level tokens, as it is imported."""
    path = tmp_path_factory.mktemp("harness")
    (path / "hf").mkdir()
    import_hf(write_model(path / "hf", published()), path / "run", None, report=lambda line: None)
    return path / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> PathwaysLM:
    return PathwaysLM(str(run), max_length=128, dtype="float32")


# ---- as `lm_eval --model hf` ----


def test_likelihoods_are_those_of_lm_eval(model: PathwaysLM, capsys: pytest.CaptureFixture[str]) -> None:
    found = model.loglikelihood(instances("loglikelihood", tool.PAIRS), disable_tqdm=True)
    for (nats, greedy), (expected, is_greedy) in zip(found, GOLDEN["pairs"], strict=True):
        assert nats == pytest.approx(expected, abs=1e-4)
        assert greedy == is_greedy
    assert [greedy for _, greedy in found].count(True) == 1
    assert "1 of 7 requests had more than 128 tokens and lost the beginning" in capsys.readouterr().err


def test_results_do_not_depend_on_the_batch(run: Path, model: PathwaysLM) -> None:
    alone = PathwaysLM(str(run), batch_size=2, max_length=128, dtype="float32")
    expected = model.loglikelihood(instances("loglikelihood", tool.PAIRS), disable_tqdm=True)
    for pair, whole in zip(reversed(tool.PAIRS), reversed(expected), strict=True):
        ((nats, greedy),) = alone.loglikelihood(instances("loglikelihood", [pair]), disable_tqdm=True)
        assert (nats, greedy) == (pytest.approx(whole[0], abs=1e-4), whole[1])
    sampled = [(prompt, options | {"do_sample": True, "temperature": 0.9}) for prompt, options in tool.PROMPTS]
    together = model.generate_until(instances("generate_until", sampled))
    for request, text in zip(sampled, together, strict=True):
        assert alone.generate_until(instances("generate_until", [request])) == [text]


def test_rolling_likelihoods_are_those_of_lm_eval_and_of_evaluate(model: PathwaysLM) -> None:
    found = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in tool.TEXTS]))
    np.testing.assert_allclose(found, GOLDEN["texts"], rtol=1e-6)
    texts = [tool.TEXTS[0], "word " * 51 + "s"]  # 256 tokens: lm_eval fills a last window with the text before it
    found = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in texts]))
    config, params = model.model.stage.model.model_copy(update={"dtype": "float32"}), model.model.params()
    held_out = Evaluator(lambda params, batch: models.token_losses(config, params, batch).nll, rows=2, seq_len=128)
    documents = [
        ScoredDocument(np.array([model.prefix_token_id, *model.tok_encode(text)], np.int32), len(text.encode()))
        for text in texts
    ]
    # `evaluate` predicts the end of a document too.
    expected = [-float(np.sum(losses[:-1], dtype=np.float64)) for losses in held_out.token_losses(params, documents)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_greedy_texts_are_those_of_lm_eval(model: PathwaysLM) -> None:
    assert model.generate_until(instances("generate_until", tool.PROMPTS)) == GOLDEN["written"]


@pytest.mark.slow
def test_the_golden_answers_are_of_the_exported_model(run: Path, tmp_path: Path) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers, lm_eval"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"torch, transformers or lm-eval is not in {TORCH_PYTHON}; see PATHWAYS_LITE_TORCH_PYTHON")
    out = tmp_path / "hf"
    export_hf(load_model(run), out, dtype="float32", shard_bytes=1 << 30, report=lambda line: None)
    command = [TORCH_PYTHON, str(TOOL), str(tmp_path / "hf"), str(tmp_path / "answers.json")]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers["written"] == GOLDEN["written"]
    np.testing.assert_allclose(np.array(answers["pairs"], float), np.array(GOLDEN["pairs"], float), atol=1e-4)
    np.testing.assert_allclose(answers["texts"], GOLDEN["texts"], rtol=1e-6)


# ---- borders ----


def test_a_token_across_the_border_is_scored_with_the_continuation(model: PathwaysLM, monkeypatch) -> None:
    merged = {"ab": [1], "a": [2], "ab c": [1, 3]}
    monkeypatch.setattr(model, "tok_encode", lambda text, **_: merged[text])
    assert model._encode_pair("a", "b") == ([], [1])
    assert model._encode_pair("ab ", "c") == ([1], [3])


def test_a_continuation_without_room_is_refused(model: PathwaysLM) -> None:
    with pytest.raises(UserError, match=r"a continuation has 200 tokens, which leaves no room .* the 128 tokens"):
        model.loglikelihood(instances("loglikelihood", [("a", "b" * 200)]), disable_tqdm=True)


def test_torch_is_not_needed() -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("torch is installed here")
    assert "torch" not in sys.modules


# ---- on the command line ----


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    rows = [{"question": f"{n}+1=", "choices": [f" {n + 1}", " x"], "label": 0} for n in range(5)]
    folder = write_tasks(tmp_path, rows, {"toy_mc": f"fewshot_split: train{MULTIPLE_CHOICE}"})
    near = (folder / "toy_mc.yaml").read_text()
    far = near.replace("toy_mc", "far_mc").replace("dataset_path: json", "dataset_path: someone/far")
    (folder / "far_mc.yaml").write_text(far)
    return folder


def invoke(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return dict(json.loads(result.stdout))


def test_a_task_of_a_directory_is_evaluated_offline(run: Path, tasks: Path) -> None:
    arguments = ("evaluate", run, "--tasks", "toy_mc", "--include", tasks, "--limit", 4, "--json")
    result = invoke(*arguments)["lm_eval"]
    assert result["n-samples"]["toy_mc"] == {"original": 5, "effective": 4}
    assert 0 <= result["results"]["toy_mc"]["acc,none"] <= 1
    assert result["results"]["toy_mc"]["acc_stderr,none"] >= 0
    assert invoke(*arguments, "--shots", 2)["lm_eval"]["n-shot"]["toy_mc"] == 2


def test_a_task_whose_data_are_on_a_hub_is_refused_by_name(run: Path, tasks: Path) -> None:
    with pytest.raises(
        UserError, match=r"task far_mc needs data from a hub \(someone/far\), and nothing is downloaded"
    ):
        invoke("evaluate", run, "--tasks", "far_mc", "--include", tasks)


def test_the_harness_runs_with_its_own_command_line(run: Path, tasks: Path) -> None:
    command = [
        sys.executable, "-m", "pathways_lite.harness", "run", "--model", "pathways_lite", "--model_args",
        f"run={run},max_length=128", "--tasks", "toy_mc", "--include_path", str(tasks), "--limit", "2",
    ]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert process.returncode == 0, process.stderr[-2000:]
    assert "toy_mc" in process.stdout
