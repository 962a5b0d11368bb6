"""Tasks asked of an instruct model by its chat template, our own and those of lm-evaluation-harness."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.harness_tasks import MULTIPLE_CHOICE, write_tasks
from helpers.invoke import invoke
from helpers.published_tokenizers import published, write_model
from pathways_lite.cli.evaluate_tasks import TaskChoice, task_evaluator
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.data.chat_template import ChatTemplate
from pathways_lite.errors import UserError
from pathways_lite.evaluation.token_scores import model_score, score_answers
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.tasks.scored_items import open_tasks
from pathways_lite.training.load import load_model

ROOT = Path(__file__).parents[2]
TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
TURNS = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
WORDS = [
    {"id": f"{n}", "prompt": f"tree {n}", "choices": ["river", "stone", "light"], "answer": answer}
    | ({"split": "train"} if n > 3 else {})
    for n, answer in enumerate(["river", "stone", "light", "stone"] * 2)
]


def imported(place: Path, template: str | None) -> Path:
    files = published(**({} if template is None else {"chat_template.jinja": template.encode()}))
    if template is None:
        del files["chat_template.jinja"]
    return import_hf(write_model(place / "hf", files), place / "run", None, report=lambda line: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("chat"), TURNS)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("no_chat"), None)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in WORDS))
    return path


def context_of(run: Path, *names: str, **options: Any) -> str:
    """The text that the first item of the first task is asked by."""
    choice = TaskChoice(",".join(names), options.pop("shots", 0), 3, None, chat=True, **options)
    tasks = choice.open(list(names))
    evaluator = task_evaluator(load_model(run), tasks, choice)
    assert evaluator.chat is not None
    return evaluator.chat.context(tasks[0].items[0])


def test_shots_are_turns_or_part_of_the_question(run: Path, words: Path) -> None:
    begin, end = "<s>user\n", "<|im_end|>\n<s>assistant\n"
    assert context_of(run, "words.jsonl") == f"{begin}tree 0{end}"
    by_prompt = {str(record["prompt"]): str(record["answer"]) for record in WORDS}
    several = context_of(run, "words.jsonl", shots=2)
    one = context_of(run, "words.jsonl", shots=2, multiturn=False)
    turns = several.removesuffix(f"{begin}tree 0{end}").split(begin)[1:]
    asked = [turn.split(end) for turn in turns]
    assert len(asked) == 2
    assert [answer for _, answer in asked] == [f"{by_prompt[prompt]}<|im_end|>\n" for prompt, _ in asked]
    shots = "".join(f"{prompt} {by_prompt[prompt]}\n\n" for prompt, _ in asked)
    assert one == f"{begin}{shots}tree 0{end}"


def test_problems_may_have_messages(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    records = [
        {"id": "a", "messages": messages, "choices": ["so", "no"], "answer": "so"},
        {"id": "b", "prompt": "How?", "choices": ["so", "no"], "answer": "no", "split": "train"},
    ]
    Path("m.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert context_of(run, "m.jsonl", shots=1) == (
        "<s>system\nBe brief.<|im_end|>\n<s>user\nHow?<|im_end|>\n<s>assistant\nno<|im_end|>\n"
        "<s>user\nWhy?<|im_end|>\n<s>assistant\n"
    )
    with pytest.raises(UserError, match=r"has messages and no prompt; .* with --apply-chat-template"):
        open_tasks(["m.jsonl"])


def test_answers_are_scored_after_the_template(run: Path, words: Path) -> None:
    arguments = ("evaluate", run, "--tasks", "words.jsonl,sum", "--limit", 3, "--json")
    plain = json.loads(invoke(*arguments).stdout)["tasks"]
    chat = json.loads(invoke(*arguments, "--apply-chat-template").stdout)["tasks"]
    assert all(chat[name]["digest"] != plain[name]["digest"] for name in chat)
    model = load_model(run)
    template = ChatTemplate(model.tokenizer(), "it")
    pairs, sizes = [], []
    for record in WORDS[:3]:
        ids = template.encode([{"role": "user", "content": record["prompt"]}])
        assert ids[0] == 257  # the name of a special token is this token
        pairs.append((Prompt(ids, 0, 256), template.encode_text(str(record["answer"]))))
        sizes.append(len(str(record["answer"])))
    scores = score_answers(model_score(model.stage.model, model.params()), pairs, 64)
    logp = np.array([-score.nll.sum() for score in scores])
    assert chat["words.jsonl"]["log_p"] == pytest.approx(logp.mean(), rel=1e-3)
    assert chat["words.jsonl"]["loss"] == pytest.approx(np.mean(-logp / sizes), rel=1e-3)


def test_the_command_of_the_page_works(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "downstream.md").read_text()
    (command,) = (line for line in page.splitlines() if line.startswith("pathways-lite") and "--apply-chat" in line)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/smollm2").symlink_to(run)
    command = command.replace("--shots 2", "--shots 0")  # the tiny model reads 128 tokens
    assert invoke(*shlex.split(command)[1:], "--limit", 2).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "words.jsonl", "--apply-chat-template"], "has no chat template: none of chat_template.jinja"),
        (["--tasks", "words.jsonl", "--apply-chat-template"], "without --apply-chat-template"),
        (["--apply-chat-template"], "as is --apply-chat-template; name some"),
        (["--tasks", "sum", "--no-fewshot-as-multiturn"], "is about chats; add --apply-chat-template"),
        (["--tasks", "sum", "--mode", "nlg", "--apply-chat-template"], "leave one of them out"),
    ],
)
def test_mistakes_are_sentences(without: Path, words: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        invoke("evaluate", without, *arguments)
    assert sentence in str(error.value)


# ---- lm-evaluation-harness ----

MESSAGES = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="},
    {"role": "assistant", "content": "2"}, {"role": "user", "content": "2+1="},
]  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    rows = [{"question": f"{n}+1=", "choices": [f"{n + 1}", "x"], "label": 0} for n in range(5)]
    return write_tasks(tmp_path, rows, {"toy": MULTIPLE_CHOICE})


def harness(path: Path, **options: Any) -> Any:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")
    from pathways_lite.harness import PathwaysLM

    return PathwaysLM(str(path), **{"max_length": 128, "dtype": "float32", **options})


def test_the_harness_applies_the_template(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = harness(run)
    template = ChatTemplate(load_model(run).tokenizer(), "it")
    assert model.apply_chat_template(MESSAGES) == template.render(MESSAGES)
    begun = [*MESSAGES, {"role": "assistant", "content": "It is"}]
    text = model.apply_chat_template(begun, add_generation_prompt=False)
    assert text == template.render(MESSAGES) + "It is"
    assert model.tok_encode(text) == template.encode_text(text)
    assert model.tok_encode(text).count(257) == 5
    assert model.chat_template(True) == TURNS
    assert model.chat_template(False) is None
    with pytest.raises(UserError, match=r"tool_use names a template; .* leave the name out"):
        model.chat_template("tool_use")
    other = harness(imported(tmp_path, NO_SYSTEM))
    assert other.tokenizer_name != model.tokenizer_name  # the tokenizer is the same, and the template is not
    for _ in range(2):
        assert other.apply_chat_template(MESSAGES) == template.render(MESSAGES[1:])
    assert capsys.readouterr().err.count("refuses a system's message, which is left out") == 1
    with pytest.raises(UserError, match="the last message of the chat is the assistant's"):
        other.apply_chat_template(begun[1:])


def test_the_opener_that_a_template_writes_is_not_written_again(tmp_path: Path) -> None:
    files = published(adds_bos=True, **{"chat_template.jinja": TURNS.encode()})
    source = write_model(tmp_path / "hf", files)
    model = harness(import_hf(source, tmp_path / "run", None, report=lambda line: None), add_bos_token=True)
    chat = model.tok_encode(model.apply_chat_template(MESSAGES))
    assert model._prompt(chat).tokens == chat
    assert model._prompt(model.tok_encode("a")).tokens == [257, *model.tok_encode("a")]


def test_a_model_without_a_template_is_refused(without: Path, toy: Path) -> None:
    model = harness(without)
    assert 257 not in model.tok_encode("<s>user")  # in the texts of other models it is text
    for call in (lambda: model.chat_template(True), lambda: model.apply_chat_template(MESSAGES)):
        with pytest.raises(UserError, match=r"has no chat template: .* without --apply_chat_template"):
            call()
    with pytest.raises(UserError, match="has no chat template"):
        invoke("evaluate", without, "--tasks", "toy", "--include", toy, "--apply-chat-template")


@pytest.mark.parametrize("multiturn", [True, False])
def test_tasks_of_the_harness_are_asked_as_chats(run: Path, toy: Path, multiturn: bool) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")
    from pathways_lite.cli.evaluate_lm_eval import HarnessTasks

    choice = TaskChoice("toy", 1, 2, None, toy, chat=True, multiturn=multiturn)
    (requests,) = HarnessTasks(["toy"], choice).requests(load_model(run)).values()
    context, continuation = requests[0].args
    assert (context.count("<s>assistant"), context.count("<s>user")) == ((2, 2) if multiturn else (1, 1))
    assert context.endswith("0+1=<|im_end|>\n<s>assistant\n")
    assert continuation == "1"
    arguments = ["evaluate", run, "--tasks", "toy", "--include", toy, "--limit", 2, "--shots", 1, "--json"]
    arguments += ["--apply-chat-template", *([] if multiturn else ["--no-fewshot-as-multiturn"])]
    found = json.loads(invoke(*arguments).stdout)["lm_eval"]
    assert found["n-samples"]["toy"]["effective"] == 2


@pytest.mark.slow
def test_the_harness_command_line_refuses_a_model_without_a_template(without: Path, toy: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")
    command = [
        sys.executable, "-m", "pathways_lite.harness", "run", "--model", "pathways_lite", "--model_args",
        f"run={without}", "--tasks", "toy", "--include_path", str(toy), "--apply_chat_template",
    ]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert process.returncode == 2, process.stderr[-2000:]
    assert "has no chat template" in process.stderr
    assert "Traceback" not in process.stderr


SCRIPT = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
directory, out, chats = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=1, max_length=128)
texts = [model.apply_chat_template(chat, chat[-1]["role"] == "user") for chat in chats]
asked = [Instance(request_type="loglikelihood", doc={}, arguments=(text, "3"), idx=0) for text in texts]
json.dump({"texts": texts, "ids": [model.tok_encode(text) for text in texts],
           "nats": [nats for nats, _ in model.loglikelihood(asked)]}, open(out, "w"))
"""


@pytest.mark.slow
def test_chats_are_those_of_lm_eval(run: Path, tmp_path: Path) -> None:
    """Texts, ids and likelihoods of `lm_eval --model hf` for the exported model."""
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers, lm_eval"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"torch, transformers or lm-eval is not in {TORCH_PYTHON}; see PATHWAYS_LITE_TORCH_PYTHON")
    from lm_eval.api.instance import Instance

    from pathways_lite.conversion.hf_export import export_hf

    out, chats = tmp_path / "hf", [MESSAGES, MESSAGES[1:], [*MESSAGES, {"role": "assistant", "content": "It is "}]]
    export_hf(load_model(run), out, dtype="float32", shard_bytes=1 << 30, report=lambda line: None)
    command = [TORCH_PYTHON, "-c", SCRIPT, str(out), str(tmp_path / "answers.json"), json.dumps(chats)]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    expected = json.loads((tmp_path / "answers.json").read_text())
    model = harness(run)
    texts = [model.apply_chat_template(chat, chat[-1]["role"] == "user") for chat in chats]
    assert texts == expected["texts"]
    assert [model.tok_encode(text) for text in texts] == expected["ids"]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=(text, "3"), idx=0) for text in texts]
    nats = [nats for nats, _ in model.loglikelihood(asked, disable_tqdm=True)]
    np.testing.assert_allclose(nats, expected["nats"], atol=1e-4)
