"""What is said of stages that work, but not as their recipe may suggest."""

import json
from typing import Any

import pytest

from pathways_lite.data.build import build
from pathways_lite.recipe import (
    UL2R,
    AdamW,
    Cosine,
    Data,
    Grow,
    Interpolate,
    LinUpper,
    Model,
    Net2Net,
    Recipe,
    Reweighting,
    SpanCorruption,
    Stack,
    Stage,
    Steps,
    Uniform,
    ZeroInit,
)
from pathways_lite.training.notes import stage_notes
from pathways_lite.training.stage import StageSpec

MODEL = Model(d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=64, vocab_size=400, dtype="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 documents of 40 bytes in `many`, one of 120 in `few`."""
    root = tmp_path_factory.mktemp("corpus")
    records = [{"text": f"{i:04d}" * 10, "domain": "many", "id": str(i)} for i in range(600)]
    records.append({"text": "few " * 30, "domain": "few", "id": "one"})
    (root / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    build([str(root / "corpus.jsonl")], root / "store", tokenizer="bytes", held_out=0, workers=0)
    return str(root / "store")


def notes(store: str, seq_len: int = 64, boundaries: str = "none", **fields: Any) -> list[str]:
    data = Data(corpus=store, seq_len=seq_len, boundaries=boundaries)  # type: ignore[arg-type]
    stage = Stage(model=MODEL, data=data, optimizer=AdamW(), batch_size=2, budget="5 steps", **fields)
    return stage_notes(StageSpec(Recipe(name="noted", stages=(stage,)), 0))


def test_of_what_is_as_it_seems_nothing_is_said(store: str) -> None:
    assert notes(store) == []
    assert notes(store, objective=SpanCorruption(), reweighting=Reweighting()) == []
    assert notes(store, objective=UL2R(), reweighting=Reweighting(rule=Uniform()), seq_len=2048) == notes(store, 2048)


def test_it_is_said_how_much_is_trained(store: str) -> None:
    assert notes(store, freeze=("embedding",)) == ["9,280 of 22,080 parameters are trained; the others are frozen"]


def test_domains_without_a_sequence_are_named(store: str) -> None:
    (note,) = notes(store, seq_len=128)
    assert "129 tokens" in note
    assert "few (121)" in note
    assert "many" not in note.split("takes:")[1]
    assert notes(store, seq_len=120) == []


@pytest.mark.parametrize(
    ("seq_len", "boundaries", "n_tokens", "advice"),
    [(64, "none", 63, "use mean_span=3 or less"), (2048, "document", 40, "data.boundaries='none'")],
)
def test_long_spans_in_short_examples_are_said_to_be_a_suffix(
    store: str, seq_len: int, boundaries: str, n_tokens: int, advice: str
) -> None:
    found = [n for n in notes(store, seq_len, boundaries, objective=UL2R()) if "single span" in n]
    assert len(found) == 1
    assert f"spans of 32 at a rate of 0.15 are a single span in examples of {n_tokens} tokens" in found[0]
    assert "12.5% of the examples" in found[0]
    assert advice in found[0]


def test_regular_spans_are_single_too_where_texts_are_very_short(store: str) -> None:
    (note,) = notes(store, 16, objective=SpanCorruption())
    assert "spans of 3 at a rate of 0.15" in note
    assert "use longer examples" in note
    assert notes(store, 64, objective=SpanCorruption(mean_span=3)) == []


def test_reweighting_over_denoisers_is_said(store: str) -> None:
    objective = UL2R.model_validate({"members": [m.model_dump() for m in UL2R().members if m.weight != 0.125]})
    (note,) = notes(store, objective=objective, reweighting=Reweighting(rule=LinUpper()))
    assert "reweighting by lin_upper compares the losses of different denoisers" in note


def grown_notes(store: str, source: Model, target: Model, **start: Any) -> list[str]:
    shared: dict[str, Any] = {"data": Data(corpus=store, seq_len=64), "batch_size": 2, "budget": "5 steps"}
    stages = (
        Stage(name="base", model=source, optimizer=AdamW(), **shared),
        Stage(name="grown", model=target, optimizer=AdamW(), start=Grow(**start), **shared),
    )
    return stage_notes(StageSpec(Recipe(name="noted", stages=stages), 1))


def test_windows_that_move_are_told_with_those_that_keep_them(store: str) -> None:
    source = MODEL.model_copy(update={"n_layers": 2, "window": (4, None)})
    target = source.model_copy(update={"n_layers": 4})
    assert grown_notes(store, source, target, operator=Stack()) == []
    (note,) = grown_notes(store, source, target, operator=Interpolate())
    assert "2 of 4 blocks get another window" in note
    assert "block 2: None instead of 4; to keep them, use model.window=(4, 4, None, None)" in note
    kept = target.model_copy(update={"window": (4, 4, None, None)})
    assert grown_notes(store, source, kept, operator=Interpolate()) == []


def test_moments_that_layer_norms_leave_open_are_told(store: str) -> None:
    source = MODEL.model_copy(update={"norm": "layer"})
    padded, doubled = (source.model_copy(update={"d_model": width}) for width in (40, 64))
    (note,) = grown_notes(store, source, padded, operator=ZeroInit(), optimizer="grow")
    assert "not known of d_model=32; a multiple of 32 with operator=Net2Net()" in note
    assert grown_notes(store, source, padded, operator=ZeroInit()) == []
    assert grown_notes(store, source, doubled, operator=Net2Net(), optimizer="grow") == []


def schedule_said(store: str, **fields: Any) -> list[str]:
    values = {"batch_size": 2, "budget": "5 steps", **fields}
    stage = Stage(model=MODEL, data=Data(corpus=store, seq_len=64), **{"optimizer": AdamW(), **values})
    return stage_notes(StageSpec(Recipe(name="noted", stages=(stage,)), 0))


def test_a_warmup_that_is_longer_than_the_stage_is_named(store: str) -> None:
    cosine = Cosine(warmup=Steps(n=20))
    (note,) = schedule_said(store, optimizer=AdamW(schedule=cosine))
    assert note.startswith(
        "the warmup of 20 steps is longer than the stage, of 5 steps, so the learning rate ends at 25%"
    )
    assert schedule_said(store, optimizer=AdamW(schedule=cosine), budget="20 steps") == []


def test_a_batch_beyond_the_budget_is_named(store: str) -> None:
    (note,) = schedule_said(store, batch_size=100, budget="1000 tokens")
    assert note.startswith("1 step of whole batches is 6.4 ktokens, 6.4 times the budget of 1 ktokens")
    assert schedule_said(store, budget="1280 tokens") == []
