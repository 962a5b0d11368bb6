"""Text of chosen kinds: sizes, no document twice, the same text for the same seed."""

import json
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from shaped_text import Part, Texts, cut, make_noise, make_templated, parse_part, take, vary  # noqa: E402


@pytest.fixture
def own_text(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    lines = ["".join(f"line {i} of text {n}\n" for i in range(50)) for n in range(30)]
    path.write_text("".join(json.dumps({"text": text, "id": f"text{n}"}) + "\n" for n, text in enumerate(lines)))
    return path


def write(out: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "tools" / "shaped_text.py"), str(out), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_parts_have_their_sizes_and_held_out_text_is_other_text(own_text: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", f"plain={own_text}:10K", "templates:5K", "plain=noise:3000")
    sizes = Counter[str]()
    for record in train:
        sizes[record["domain"]] += len(record["text"].encode())
    assert sizes["templates"] == pytest.approx(5_000, abs=4)
    assert sizes["plain"] == pytest.approx(13_000, abs=50)  # the last document ends between lines
    held_out = write(tmp_path / "held.jsonl", f"plain={own_text}:9K", "--after", str(tmp_path / "train.jsonl"))
    assert not {record["source"] for record in train} & {record["source"] for record in held_out}
    assert len({record["id"] for record in train}) == len(train)
    assert write(tmp_path / "again.jsonl", f"plain={own_text}:10K", "templates:5K", "plain=noise:3000") == train


def test_sizes_are_prefixes_of_one_order(own_text: Path) -> None:
    few, many = (
        [source for source, _ in take(Part("a", str(own_text), size), Texts(0, 40_000, set()), None)]
        for size in (4_000, 12_000)
    )
    assert many[: len(few)] == few
    assert [s for s, _ in take(Part("a", str(own_text), 4_000), Texts(1, 40_000, set()), None)] != few


def test_too_little_text_is_said(own_text: Path) -> None:
    with pytest.raises(SystemExit, match=r"has .* bytes of text left, fewer than 1,000,000"):
        list(take(Part("a", str(own_text), 1_000_000), Texts(0, 40_000, set()), None))


def test_texts_above_the_largest_size_are_left_out(own_text: Path) -> None:
    with pytest.raises(SystemExit, match="has 0 bytes"):
        list(take(Part("a", str(own_text), 10), Texts(0, 100, set()), None))


@pytest.mark.parametrize("size", [7, 40, 1000])
def test_pieces_join_to_the_text(size: int) -> None:
    text = "short\n\näöü and a longer line of text\n" + "x" * 90 + "\nend"
    pieces = cut(text, size)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= size for piece in pieces)


def test_parts_are_parsed() -> None:
    assert parse_part("plain=code:2.4M") == Part("plain", "code", 2_400_000)
    assert parse_part("dir/novels.txt:70K") == Part("novels", "dir/novels.txt", 70_000)
    for wrong in ("code", "code:", "code:2G"):
        with pytest.raises(Exception, match=r"is not \[DOMAIN=\]KIND:SIZE"):
            parse_part(wrong)


def test_templates_are_redundant_and_noise_is_not() -> None:
    rng = random.Random(0)
    words = Counter(word for _ in range(50) for word in make_templated(rng).split())
    assert len(words) < 100
    counts = Counter("".join(make_noise(rng) for _ in range(100)))
    assert len(counts) == 95
    total = sum(counts.values())
    assert -sum(n / total * math.log(n / total) for n in counts.values()) == pytest.approx(math.log(95), abs=0.001)


def test_copies_differ_in_a_few_words() -> None:
    text = " ".join(f"word{i}" for i in range(2000))
    changed = sum(a != b for a, b in zip(text.split(), vary(text, random.Random(0)).split(), strict=True))
    assert 15 < changed < 70


def test_copies_are_of_one_text_each(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Texts(0, 40_000, set())
    monkeypatch.setattr(texts, "_real", lambda kind: iter([("a", "one two three"), ("b", "four five six")]))
    copies = [source for source, _ in take(Part("c", "copies", 200), texts, None)]
    assert copies[:9] == [*(f"a/copy{i}" for i in range(8)), "b/copy0"]
