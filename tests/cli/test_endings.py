"""How commands end: what the operating system refuses is a sentence, closed pipes are quiet, Ctrl-C is one line."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pathways_lite.cli import main as command_line
from pathways_lite.cli.generate import decode_text
from pathways_lite.cli.main import app
from pathways_lite.errors import MISTAKE, TRY_AGAIN, UserError, explain_system_error
from pathways_lite.output_lock import lock_directory, lock_file

COMMAND = [sys.executable, "-m", "pathways_lite"]


def run_main(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["pathways-lite", *map(str, arguments)])
    monkeypatch.setattr(os, "_exit", sys.exit)  # how training ends, without the interpreter's shutdown
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert isinstance(end.value.code, int)
    return end.value.code


# ---- what the operating system refuses ----


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("some text\n")
    (tmp_path / "runs.csv").write_text("N,D,L\n1e7,2e8,5.3\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "RECIPE", "--out", "file/run"],
        ["train", "RECIPE", "--out", "file"],
        ["train", "RECIPE", "--out", "/proc/run"],
        ["train", "RECIPE", "--out", "x" * 300],
        ["train", "RECIPE", "--out", "gs://bucket/run"],
        ["data", "build", "file/corpus", "file", "--tokenizer", "bytes", "--workers", "0"],
        ["data", "build", "/proc/corpus", "file", "--tokenizer", "bytes", "--workers", "0"],
        ["data", "build", "corpus", "hf://datasets/x", "--tokenizer", "bytes", "--workers", "0"],
        ["data", "inspect", "file"],
        ["data", "inspect", "https://example.org/corpus"],
        ["fit", "chinchilla", "runs.csv", "--out", "file/fit.json"],
        ["fit", "predict", "x" * 300, "N=1e9"],
        ["merge", "file/merged", "file"],
        ["evaluate", "s3://bucket/run"],
        ["runs", "file"],
        ["runs", "table", "file"],
    ],
)
def test_what_is_refused_is_one_sentence(
    arguments: list[str],
    texts: Path,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = run_main(*(str(recipe_file) if a == "RECIPE" else a for a in arguments), monkeypatch=monkeypatch)
    output = capsys.readouterr()
    if arguments == ["runs", "file"]:
        assert "no runs in file" in output.out
        return
    assert status == MISTAKE
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1, output.err
    assert any(word in output.err for word in ("file", "/proc", "xxx", "://")), "the path is named"


@pytest.mark.parametrize(
    ("error", "sentence", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device; free", MISTAKE),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; change", MISTAKE),
        (OSError("no number"), "no number", MISTAKE),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing "tokens": Failed writing: "/d/c/0.__lock": Failed to write 9 bytes '
                "to file 7: No space left on device [os_error_code='28'] [tensorstore_spec='{\"path\":\"/other\"}']"
            ),
            "/d/c/0: No space left on device",
            MISTAKE,
        ),
        (ValueError('UNAVAILABLE: Error reading "/d/x": try later'), "/d/x: try later", TRY_AGAIN),
    ],
)
def test_the_sentence_has_path_and_reason(error: Exception, sentence: str, status: int) -> None:
    explained = explain_system_error(error)
    assert explained is not None
    assert sentence in str(explained)
    assert explained.status == status


def test_a_bug_keeps_its_traceback() -> None:
    assert explain_system_error(ValueError("shapes differ")) is None
    assert explain_system_error(TypeError("UNKNOWN: x")) is None


# ---- pipes ----


def test_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "fit", "laws"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_standard_output_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "fit", "laws"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == MISTAKE
    assert done.stderr.startswith("error: ")
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_messages_without_a_reader_do_not_end_a_command(tmp_path: Path) -> None:
    """`pathways-lite data build ... 2>&1 | head` still builds."""
    (tmp_path / "a.txt").write_text("some text\n" * 50)
    reader, writer = os.pipe()
    os.close(reader)
    words = ["data", "build", "corpus", "a.txt", "--tokenizer", "bytes", "--workers", "0"]
    done = subprocess.run([*COMMAND, *words], stderr=writer, stdout=subprocess.DEVNULL, cwd=tmp_path, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "corpus" / "manifest.json").is_file()


# ---- Ctrl-C ----

# SIGINT is ignored where the tests run in the background of a shell.
INTERRUPT = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupter:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
sys.argv = ["pathways-lite", "fit", "laws"]
from pathways_lite.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module",
    ["typer", "pathways_lite.cli.study", "pathways_lite.scaling.laws.registry", "numpy._core.multiarray"],
)
def test_ctrl_c_is_one_line_and_130_at_any_moment(module: str) -> None:
    code = INTERRUPT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "Interrupted."


def test_ctrl_c_in_a_destructor_is_not_swallowed() -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathways_lite.cli.interrupt import raise_on_interrupt\nraise_on_interrupt()\n"
        "class A:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "a = A()\ndel a\nprint('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "Interrupted.")


# ---- bytes that are not UTF-8 ----


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea\x00", b"ok then \xed\xa0\x80"])
def test_a_prompt_that_is_not_utf8_is_told(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not UTF-8: byte 0x.. after \d+ bytes"):
        decode_text(content, "--prompt")
    for option in ("--prompt", "--infill"):
        with pytest.raises(UserError, match=f"{option} is not UTF-8"):
            CliRunner().invoke(app, ["generate", str(tmp_path), option, os.fsdecode(content)], catch_exceptions=False)


def test_a_character_that_the_terminal_lacks_is_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "fit", "laws"], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u03b1" in done.stdout or rb"\xb7" in done.stdout or done.stdout.isascii()


# ---- locks on outputs ----


def test_two_commands_do_not_write_one_output(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("N,D,L\n1e7,2e8,5.3\n")
    out = tmp_path / "fit.json"
    words = ["fit", "chinchilla", str(table), "--out", str(out)]
    with lock_file(out), pytest.raises(UserError, match="in use"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with lock_directory(tmp_path / "merged"), pytest.raises(UserError, match="in use"):
        CliRunner().invoke(app, ["merge", str(tmp_path / "merged"), "nothing"], catch_exceptions=False)
    assert not list(tmp_path.glob(".*"))


def test_a_command_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        CliRunner().invoke(app, ["merge", str(tmp_path / "merged"), str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_many_writers_take_turns(tmp_path: Path) -> None:
    """No two processes are ever inside at once, although the lock's file is removed each time."""
    code = """
import sys, time
from pathlib import Path
from pathways_lite.errors import UserError
from pathways_lite.output_lock import lock_file
out, inside, turns = Path(sys.argv[1]), Path(sys.argv[1] + ".inside"), 0
end = time.monotonic() + 1.0
while time.monotonic() < end:
    try:
        with lock_file(out):
            inside.touch(exist_ok=False)
            inside.unlink()
            turns += 1
    except UserError:
        pass
print(turns)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum(int(stdout) for stdout, _ in outputs) > 3
    assert not list(tmp_path.iterdir())


# ---- JSON ----

PRINT_NO_RESULTS = {("train",), ("study", "run"), ("recipe", "copy")}


def commands(group: object, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """Return all commands below a group, by their words."""
    below = getattr(group, "commands", None)
    if below is None:
        return [(words, group)]
    return [item for name, command in below.items() for item in commands(command, (*words, name))]


def test_every_command_that_prints_results_prints_json() -> None:
    import typer

    lacking = [
        words
        for words, command in commands(typer.main.get_command(app))
        if not any("--json" in parameter.opts for parameter in command.params)  # type: ignore[attr-defined]
    ]
    assert set(lacking) <= PRINT_NO_RESULTS


def test_json_is_standard_json(capsys: pytest.CaptureFixture[str]) -> None:
    from pathways_lite.cli.common import print_json

    print_json({"nan": float("nan"), "inf": -float("inf"), "path": Path("a"), "esc": "\x1b[2J", "nested": [1.5, None]})
    line = capsys.readouterr().out
    assert "\x1b" not in line

    def refuse(text: str) -> None:
        raise AssertionError(text)

    values = json.loads(line, parse_constant=refuse)
    assert values == {"nan": "NaN", "inf": "-Infinity", "path": "a", "esc": "\x1b[2J", "nested": [1.5, None]}
