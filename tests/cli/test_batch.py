"""`qwenctl batch` with the demo model: options, summary, exit codes, what an interruption leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from quant.gguf_read import read_gguf

pytestmark = pytest.mark.usefixtures("shared_cache")
FEW = ["--max-tokens", "4", "--no-think", "--threads", "1", "--parallel", "4", "--ctx", "256"]


def write_lines(path, n_lines):
    path.write_text(
        "".join(json.dumps({"custom_id": f"q{n}", "prompt": f"Question {n}?"}) + "\n" for n in range(n_lines))
    )
    return path


def ids(path):
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_file_of_prompts_becomes_a_file_of_answers(qwenctl, demo_gguf, tmp_path):
    questions, answers = write_lines(tmp_path / "in.jsonl", 6), tmp_path / "out.jsonl"
    ran = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW)
    assert (ran.code, ran.stdout) == (0, "")
    assert ran.stderr.startswith(f"{answers}: 6 answered · ")
    assert sorted(ids(answers)) == [f"q{n}" for n in range(6)]
    again = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW, "--json")
    document = json.loads(again.stdout)
    assert (document["n_done"], document["n_skipped"]) == (0, 6)
    assert sorted(ids(answers)) == [f"q{n}" for n in range(6)]
    other = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW, "--temp", "0.1")
    assert other.code == 2
    assert "--restart" in other.stderr
    anew = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW, "--temp", "0.1", "--restart", "--json")
    assert json.loads(anew.stdout)["n_done"] == 6


def test_error_records_mean_exit_code_1(qwenctl, demo_gguf, tmp_path):
    answers = tmp_path / "out.jsonl"
    lines = '{"custom_id": "good", "prompt": "Hi"}\nnot json\n'
    ran = qwenctl("batch", demo_gguf, "-", "-o", answers, *FEW, stdin=lines)
    assert ran.code == 1
    assert "1 answered · 1 errors" in ran.stderr
    assert "error: 1 of 2 lines ended in an error record" in ran.stderr
    assert len(answers.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-o", "out.jsonl"], 2, "no file of prompts"),
        (["in.jsonl"], 2, "Missing option '-o'"),
        (["in.jsonl", "-o", "out.jsonl", "--parallel", "0"], 2, "--parallel"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(qwenctl, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    ran = qwenctl("batch", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr
    assert ran.stderr.startswith("error: ")


def test_an_input_that_is_not_there_is_one_line(qwenctl, demo_gguf, tmp_path):
    ran = qwenctl("batch", demo_gguf, tmp_path / "missing.jsonl", "-o", tmp_path / "out.jsonl", *FEW)
    assert ran.code in (1, 2)
    assert ran.stderr.startswith("error: ")
    assert "missing.jsonl" in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(qwenctl, demo_gguf, tmp_path, number):
    questions, answers = write_lines(tmp_path / "in.jsonl", 24), tmp_path / "out.jsonl"
    command = ["batch", str(demo_gguf), str(questions), "-o", str(answers), *FEW]
    process = subprocess.Popen([sys.executable, "-m", "qwenctl", *command], stderr=subprocess.PIPE)
    while not (answers.exists() and answers.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    stderr = process.communicate()[1].decode()
    if number == signal.SIGINT and process.returncode != 0:
        assert process.returncode == 130
        assert stderr.split() == ["interrupted"]
    ran = qwenctl(*command)
    assert ran.code == 0
    assert sorted(ids(answers)) == sorted(f"q{n}" for n in range(24))


def test_a_check_generates_nothing(qwenctl, demo_gguf, tmp_path):
    questions, answers = write_lines(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    ran = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW, "--check", "--json")
    assert ran.code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert (document["n_lines"], document["n_bad"], document["n_most_generated_tokens"]) == (5, 0, 20)
    assert document["n_prompt_tokens"] > 5
    assert document["seconds"] >= 0
    with questions.open("a") as file:
        file.write('{"prompt": 1}\n')
    ran = qwenctl("batch", demo_gguf, questions, "-o", answers, *FEW, "--check")
    assert ran.code == 2
    assert "prompt tokens" in ran.stdout
    assert "'prompt' must be text" in ran.stderr
    assert "1 of 6 lines cannot be answered" in ran.stderr
    assert not answers.exists()


def test_the_input_s_order_and_a_limit_of_tokens(qwenctl, demo_gguf, tmp_path):
    questions, answers = write_lines(tmp_path / "in.jsonl", 12), tmp_path / "out.jsonl"
    command = ["batch", demo_gguf, questions, "-o", answers, *FEW, "--order", "input"]
    ran = qwenctl(*command, "--max-total-tokens", "100", "--json")
    document = json.loads(ran.stdout)
    assert ran.code == 1
    assert 0 < document["n_done"] < 12
    assert document["n_left"] == 12 - document["n_done"]
    assert document["n_total_tokens"] <= 100
    assert "a larger --max-total-tokens goes on" in ran.stderr
    assert qwenctl(*command).code == 0
    assert ids(answers) == [f"q{n}" for n in range(12)]


def test_the_second_run_takes_as_many_as_the_first_one_measured(qwenctl, demo_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing is known of it there
    questions, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    tokens = read_gguf(demo_gguf).metadata["tokenizer.ggml.tokens"]
    no_end = {"logit_bias": {tokens.index(name): -100 for name in ("<|im_end|>", "<|endoftext|>")}}
    bodies = [{"prompt": f"Number {n}", "max_tokens": 80 if n % 2 else 130, **no_end} for n in range(10)]
    line = {"method": "POST", "url": "/v1/completions"}
    questions.write_text(
        "".join(json.dumps({"custom_id": f"{n}", **line, "body": body}) + "\n" for n, body in enumerate(bodies))
    )
    command = ["batch", demo_gguf, questions, "-o", answers, "--restart", "--threads", "1", "--ctx", "256"]
    first, second = qwenctl(*command), qwenctl(*command, "--json")
    assert (first.code, second.code) == (0, 0)
    assert "16 answers at the same time" in first.stderr
    assert "measured on this machine" not in first.stderr
    assert "measured on this machine, they " in second.stderr
    assert json.loads(second.stdout)["n_done"] == 10
    (record,) = (tmp_path / "cache" / "qwenctl" / "steps").iterdir()
    known = json.loads(record.read_text())
    assert {5, 10} <= {int(n) for n in known["steps"]}
    assert known["chosen"]["batch"] in (8, 16)
    given = qwenctl(*command, "--parallel", "3")
    assert "at the same time" not in given.stderr
    again = json.loads(record.read_text())
    assert (again["chosen"], "3" in again["steps"]) == (known["chosen"], True)  # measured as well, and not a choice
