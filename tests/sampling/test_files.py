"""Directories of samples go on after a kill, to the same bytes, and grow by further samples."""

from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
import pytest

from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.evaluation import problem_samples
from pathways_lite.evaluation.generation import Writer
from pathways_lite.evaluation.problem_samples import Asked, Asking, Pace, draw_part
from pathways_lite.models.accounting import flops_with_spans
from pathways_lite.recipe import Model
from pathways_lite.sampling import Sampling
from pathways_lite.sampling.files import SampleDirectory, read_account

CONFIG = Model(d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab_size=20, dtype="float32", window=(None, 8))
PROMPTS = ["abcdefgh"[: 1 + i % 5] for i in range(40)]
ASKING = Asking(Sampling(1.5), 6)
MANIFEST: dict[str, Any] = {"checkpoint_digest": "c", "problems": "here", "seed": 3, "sampling": {"temperature": 1.5}}


class Letters:
    eod = 0

    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") + 1 for c in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(ord("a") + token - 1) for token in tokens if token)


@pytest.fixture(scope="module")
def writer() -> Writer:
    params = models.init(CONFIG, jax.random.key(1))
    return Writer(CONFIG, params, Letters(), key=jax.random.key(3), rows=8)


def problems(writer: Writer) -> list[Asked]:
    return [Asked(f"p{i}", writer.asker.ask(prompt)) for i, prompt in enumerate(PROMPTS)]


def draw(path: Path, writer: Writer, samples: int, *, at_most: int = 99) -> int:
    directory = SampleDirectory(path, MANIFEST)
    parts = directory.missing(len(PROMPTS), samples)
    for part in parts[:at_most]:
        draw_part(directory, part, writer, CONFIG, problems(writer), ASKING, lambda count: None)
    return len(parts)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(path.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "seconds.json"}


def test_a_killed_command_goes_on_to_the_same_bytes(writer: Writer, tmp_path: Path):
    assert draw(tmp_path / "whole", writer, 3) == 3
    assert draw(tmp_path / "killed", writer, 3, at_most=1) == 3
    assert draw(tmp_path / "killed", writer, 3) == 2
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
    assert draw(tmp_path / "killed", writer, 3) == 0


def test_more_samples_are_further_parts(writer: Writer, tmp_path: Path):
    draw(tmp_path / "few", writer, 2, at_most=2)
    assert draw(tmp_path / "few", writer, 5) == 1 + 3
    draw(tmp_path / "many", writer, 5)
    few, many = (rows_of(tmp_path / name) for name in ("few", "many"))
    assert len(few) == len(many) == 5 * len(PROMPTS)

    def texts(rows: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
        return {(row["problem"], row["sample"]): row["text"] for row in rows}

    assert texts(few) == texts(many)
    with pytest.raises(UserError, match="has 5 samples of some problems; ask for as many or more"):
        draw(tmp_path / "few", writer, 4)


def test_the_account_counts_every_token_once(writer: Writer, tmp_path: Path):
    draw(tmp_path / "out", writer, 2)
    rows, account = rows_of(tmp_path / "out"), read_account(tmp_path / "out")
    prompts = {f"p{i}": 1 + len(prompt) for i, prompt in enumerate(PROMPTS)}
    assert account.tokens_read == sum(prompts.values())
    assert account.tokens_written == sum(len(row["tokens"]) for row in rows)

    def pairs(length: int) -> int:
        return sum(i + 1 for i in range(length)) + sum(min(8, i + 1) for i in range(length))

    attended = sum(map(pairs, prompts.values()))
    attended += sum(pairs(prompts[r["problem"]] + len(r["tokens"])) - pairs(prompts[r["problem"]]) for r in rows)
    tokens = account.tokens_read + account.tokens_written
    assert account.flops == flops_with_spans(CONFIG, tokens, attended, backward=False)
    assert account.seconds > 0


def test_samples_that_were_asked_otherwise_are_not_mixed(writer: Writer, tmp_path: Path):
    SampleDirectory(tmp_path / "out", MANIFEST)
    SampleDirectory(tmp_path / "out", MANIFEST | {"problems": "elsewhere"})
    with pytest.raises(UserError, match="holds samples with seed=3, not 4"):
        SampleDirectory(tmp_path / "out", MANIFEST | {"seed": 4})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        SampleDirectory(tmp_path / "damaged", MANIFEST)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.parquet").touch()
    with pytest.raises(UserError, match="name another directory"):
        SampleDirectory(tmp_path / "other", MANIFEST)


def test_the_pace_is_told_once_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.0, 104.0, 106.0, 108.0])
    monkeypatch.setattr(problem_samples.time, "monotonic", lambda: next(times))
    told: list[tuple[float, float]] = []
    pace = Pace(1000, lambda rate, left: told.append((rate, left)))
    pace.look(100)  # after which the program is compiled
    pace.look(160)
    pace.look(20)  # of the next part
    assert not told
    pace.look(60)
    pace.look(100)
    # 60 + 20 + 40 tokens in 6 seconds, and 1000 - 100 - 120 are left.
    assert told == [(20.0, 39.0)]


def test_a_part_looks_at_the_tokens_it_has(tmp_path: Path, writer: Writer) -> None:
    directory = SampleDirectory(tmp_path / "samples", MANIFEST)
    part = directory.missing(len(PROMPTS), 2)[0]
    seen: list[int] = []
    draw_part(directory, part, writer, CONFIG, problems(writer), ASKING, lambda count: None, seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= sum(len(row["tokens"]) for row in rows_of(tmp_path / "samples"))
