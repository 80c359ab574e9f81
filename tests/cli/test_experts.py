"""`qwenctl experts`: the numbers of a scripted trace, the map on every kind of terminal, bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwenctl.cli.heat_map import lay_out, legend, plain_row, styled_row, to_text
from qwenctl.telemetry.routing_trace import TraceHeader, TraceReader, TraceWriter
from tests.cli.terminal import Terminal
from tests.tiny_gguf import TinyGguf

pytestmark = pytest.mark.usefixtures("shared_cache")
QUICK = ["--max-tokens", "4", "--threads", "1"]


def write_trace(path: Path, n_experts: int = 8, n_rounds: int = 40, model: str = "scripted") -> Path:
    """Two layers with experts: layer 1 uses two pairs in turn, layer 4 all experts alike."""
    with TraceWriter(path, TraceHeader(model, 5, n_experts, 2)) as writer:
        for turn in range(n_rounds):
            writer.record(1, [0, 1] if turn % 4 else [2, 0], 1, 2)
            writer.record(4, [2 * turn % n_experts, (2 * turn + 1) % n_experts], 1, 2)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "scripted.trace")


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_csv_is_exact(qwenctl, trace):
    ran = qwenctl("experts", "--from-trace", trace, "--csv")
    assert (ran.code, ran.stderr) == (0, "too few tokens to tell a collapsed router: 80 would do\n")
    layer_1 = ["1,0,40,0.5", "1,1,30,0.375", "1,2,10,0.125", *[f"1,{expert},0,0.0" for expert in range(3, 8)]]
    assert ran.stdout.splitlines() == ["layer,expert,uses,share", *layer_1, *[f"4,{e},10,0.125" for e in range(8)]]


def test_json_is_exact(qwenctl, trace):
    ran = qwenctl("experts", "--from-trace", trace, "--json", "-q")
    assert (ran.code, ran.stderr) == (0, "")
    document = json.loads(ran.stdout)
    budgets = document.pop("budgets")
    assert document == {
        "model": "scripted",
        "n_layers": 5,
        "n_experts": 8,
        "n_experts_used": 2,
        "n_tokens": 40,
        "layers": [
            {
                "layer": 1,
                "n_tokens": 40,
                "n_used": 2,
                "top_10_share": 0.5,
                "top_30_share": 1.0,
                "n_for_90": 3,
                "entropy": 0.468546,
                "gini": 0.71875,
                # expert 0 always repeats, expert 1 after two of the three turns that have it, expert 2 never
                "repeat_rate": round((39 + 20) / 78, 6),
                "median_reuse_tokens": 1.0,
                "n_unused": 5,
                "uses": [40, 30, 10, 0, 0, 0, 0, 0],
            },
            {
                "layer": 4,
                "n_tokens": 40,
                "n_used": 2,
                "top_10_share": 0.125,
                "top_30_share": 0.375,
                "n_for_90": 8,
                "entropy": 1.0,
                "gini": 0.0,
                "repeat_rate": 0.0,
                "median_reuse_tokens": 4.0,
                "n_unused": 0,
                "uses": [10] * 8,
            },
        ],
        "warnings": [],
        "n_tokens_needed": 80,
    }
    assert [budget["fraction"] for budget in budgets] == sorted({budget["fraction"] for budget in budgets})
    assert budgets[0]["n_experts"] == 2  # never fewer than one token takes
    # With all experts in memory each is read once: 3 of layer 1 and 8 of layer 4, of 160 uses.
    assert budgets[-1] == {"fraction": 1.0, "n_experts": 8, "n_bytes": None, "hit_rate": round(149 / 160, 6)}


def test_collapse_is_warned_of(qwenctl, tmp_path):
    ran = qwenctl("experts", "--from-trace", write_trace(tmp_path / "t", n_rounds=400))
    assert ran.stdout.endswith(
        "\nwarning: layer 1: 5 experts are never used in 400 tokens: 3, 4, 5, 6, 7\n"
        "warning: layer 1: 3 of 8 experts take 90 % of the uses\n"
    )
    assert ran.stderr == ""


def test_layers_can_be_chosen(qwenctl, trace):
    def layers(words: str) -> set[str]:
        ran = qwenctl("experts", "--from-trace", trace, "--csv", "-q", "--layers", words)
        assert ran.code == 0
        return {row["layer"] for row in csv.DictReader(io.StringIO(ran.stdout))}

    assert layers("4") == {"4"}
    assert layers("4, 1-1") == {"1", "4"}
    missing = qwenctl("experts", "--from-trace", trace, "--layers", "1-2")
    assert missing.code == 2
    assert "error: no experts in layer 2; there are some in layers 1 to 4" in missing.stderr


# --- the map ---------------------------------------------------------------------------------------------------------

MAP = """\
scripted: 2 of 8 experts a token, 2 of 5 layers; 40 tokens

Layers down, experts 0 to 7 across, entropy on the right.
Uses of an expert, as a multiple of an even share:
' ' 0  . <0.25  : <0.5  - <0.75  = <1.25  + <2  * <3  # <5  % <8  @ >=8
1 |##=     |  0.469
4 |========|  1.000

a layer's                       lowest  in   median  highest  in
entropy (1: even use)            0.469  (1)   0.469    1.000  (4)
Gini coefficient (0: even use)   0.000  (4)   0.000    0.719  (1)
uses on the most used 10 %       12.5%  (4)   12.5%    50.0%  (1)
uses on the most used 30 %       37.5%  (4)   37.5%   100.0%  (1)
experts with 90 % of the uses        3  (1)       3        8  (4)
experts never used                   0  (4)       0        5  (1)
used by the next token again      0.0%  (4)    0.0%    75.6%  (1)
median tokens until used again       1  (1)       1        4  (4)

experts in memory  a layer  hit rate
"""


def test_what_a_pipe_gets(qwenctl, trace):
    ran = qwenctl("experts", "--from-trace", trace, "-q")
    assert ran.code == 0
    assert ran.stdout.startswith(MAP)
    assert ran.stdout.isascii()
    last = ran.stdout.splitlines()[-1].split()
    assert last == ["100%", "8", "93.1%"]


def test_experts_share_columns_where_the_terminal_is_narrow(qwenctl, tmp_path, monkeypatch):
    path = write_trace(tmp_path / "t", n_experts=128, n_rounds=200)

    def lines(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = qwenctl("experts", "--from-trace", path, "-q").stdout.splitlines()
        return shown[2 : shown.index("", 2)]

    wide, usual, narrow = lines(160), lines(80), lines(40)
    assert "experts 0 to 127 across, entropy" in wide[0]
    assert "experts 0 to 127 across, 2 in a column" in usual[0]
    assert "experts 0 to 127 across, 5 in a column" in narrow[0]
    assert wide[-2] == "1 |@@@" + " " * 125 + "|  0.201"
    assert usual[-2] == "1 |@@" + " " * 62 + "|  0.201"
    assert [len(line) for line in (wide[-1], usual[-1], narrow[-1])] == [139, 75, 37]
    assert all(len(line) < 40 for line in narrow[2:])


def test_on_a_terminal_it_is_coloured_unless_that_is_not_wanted(trace, tmp_path):
    command = [sys.executable, "-m", "qwenctl", "experts", "--from-trace", str(trace), "-q"]
    with Terminal(command, columns=80) as terminal:
        assert terminal.wait_exit() == 0
        assert b"\x1b[48;5;" in terminal.raw
        assert "\u2590".encode() not in terminal.raw
    wide = write_trace(tmp_path / "wide", n_experts=128, n_rounds=4)
    with Terminal([*command[:4], "--from-trace", str(wide), "-q"], columns=80, rows=50) as terminal:
        assert terminal.wait_exit() == 0
        rows = [line for line in terminal.text.splitlines() if "\u2590" in line]
        assert rows == ["1 " + "\u2590" * 64 + "  0.201", "4 " + "\u2590" * 64 + "  0.429"]
    for variable in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with Terminal(command, columns=80, env=variable) as terminal:
            assert terminal.wait_exit() == 0
            assert b"\x1b" not in terminal.raw
            assert terminal.raw.decode().replace("\r\n", "\n").startswith(MAP)


@pytest.mark.parametrize(
    ("n_numbers", "columns", "styled", "n_shared", "n_cells"),
    [
        (128, 128, True, 1, 128),
        (128, 70, True, 1, 64),
        (128, 70, False, 2, 64),
        (129, 70, True, 1, 65),
        (512, 70, True, 4, 64),
        (512, 70, False, 8, 64),
        (4, 70, True, 1, 4),
        (128, 1, False, 16, 8),
    ],
)
def test_rows_are_as_fine_as_the_width_allows(n_numbers, columns, styled, n_shared, n_cells):
    layout = lay_out(n_numbers, columns, styled=styled)
    assert (layout.n_shared, layout.n_cells) == (n_shared, n_cells)
    multiples = [float(number % 3) for number in range(n_numbers)]
    row = styled_row(multiples, layout) if styled else plain_row(multiples, layout)
    assert (row.cell_len if styled else len(row)) == n_cells


def test_two_experts_share_a_coloured_cell_in_halves():
    layout = lay_out(20, 10, styled=True)
    row = styled_row([0.0, 9.0] * 10, layout)
    left_never, right_hot = "48;2;16;16;16", "38;2;252;255;164"
    assert to_text(row, styled=True, terminal="truecolor") == f"\x1b[{right_hot};{left_never}m\u2590\x1b[0m" * 10


def test_the_scale_is_the_legends():
    layout = lay_out(12, 40, styled=False)
    multiples = [0.0, 1e-9, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 3.0, 5.0, 8.0, 128.0]
    assert plain_row(multiples, layout) == " .:-==+*#%@@"
    assert [piece.plain for piece in legend(styled=True)] == [
        f"   {words}" for words in ("0", "<0.25", "<0.5", "<0.75", "<1.25", "<2", "<3", "<5", "<8", ">=8")
    ]


def test_a_name_cannot_reach_the_terminal_raw(qwenctl, tmp_path):
    path = write_trace(tmp_path / "t", model="模型\x1b[2J\n1")
    assert qwenctl("experts", "--from-trace", path).stdout.startswith("模型 [2J 1: 2 of 8 experts")


# --- runs of the demo ------------------------------------------------------------------------------------------------


def test_the_demo_is_recorded_and_evaluated(qwenctl, demo_gguf, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The sea\n\nLe ciel est\n", encoding="utf-8")
    kept = tmp_path / "run.trace"
    ran = qwenctl("experts", demo_gguf, "--prompts", prompts, *QUICK, "--json", "--trace", kept, "-q")
    assert (ran.code, ran.stderr) == (0, "")
    document = json.loads(ran.stdout)
    assert (document["model"], document["n_experts"], document["n_experts_used"]) == ("Demo", 16, 4)
    assert [layer["layer"] for layer in document["layers"]] == [0, 1, 2, 3]
    assert all(sum(layer["uses"]) == 4 * layer["n_tokens"] for layer in document["layers"])
    assert document["budgets"][-1]["n_bytes"] > 2_000_000
    sizes = [budget["n_bytes"] for budget in document["budgets"]]
    assert sizes == sorted(sizes)

    again = qwenctl("experts", demo_gguf, "--from-trace", kept, "--json", "-q")
    assert json.loads(again.stdout) == document
    text = kept.read_bytes()
    assert b"sea" not in text
    assert b"ciel" not in text


def test_prompts_come_from_a_pipe_and_from_batch_files(qwenctl, demo_gguf, tmp_path):
    def n_tokens(stdin: str) -> int:
        path = tmp_path / "t"
        ran = qwenctl("experts", demo_gguf, "--prompts", "-", *QUICK, "--trace", path, "--csv", "-q", stdin=stdin)
        assert (ran.code, ran.stderr) == (0, "")
        return TraceReader(path).read().n_tokens

    line = "What is the capital of France?"
    assert n_tokens(line) == n_tokens(json.dumps({"prompt": line}))
    longer = {"prompt": line, "max_tokens": 9, "temperature": 0}
    assert n_tokens(json.dumps(longer)) > n_tokens(line)


def test_without_prompts_it_uses_its_own(qwenctl, demo_gguf):
    ran = qwenctl("experts", demo_gguf, "--max-tokens", "1", "--threads", "1", "--csv", "-q")
    assert ran.code == 0
    uses = [int(row["uses"]) for row in csv.DictReader(io.StringIO(ran.stdout)) if row["layer"] == "0"]
    assert sum(uses) > 4 * 200


# --- what cannot be done ---------------------------------------------------------------------------------------------


def test_a_dense_model_is_refused_in_one_line(qwenctl, tmp_path):
    path = TinyGguf.of("qwen3").write(tmp_path / "dense.gguf")
    for words in ([path], [path, "--from-trace", write_trace(tmp_path / "t")]):
        ran = qwenctl("experts", *words)
        assert (ran.code, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"error: {path} has no experts: it is a dense model (qwen3)\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--csv", "--json"], 2, "--csv and --json exclude each other"),
        (["--from-trace", "t", "--prompts", "p"], 2, "--prompts and --from-trace exclude each other"),
        (["--from-trace", "t", "--trace", "t2"], 2, "--trace and --from-trace exclude each other"),
        (["--from-trace", "missing"], 2, "cannot read missing: No such file"),
        (["--layers", "3-1"], 2, "does not name layers"),
        (["--layers", "all"], 2, "does not name layers"),
        (["missing.gguf"], 1, "no model missing.gguf"),
    ],
)
def test_what_makes_no_sense_is_one_line(qwenctl, words, code, message):
    ran = qwenctl("experts", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no prompts"),
        (b"\n \n", "holds no prompts"),
        (b"caf\xe9\n", "line 1 of {path} is not UTF-8: byte 4"),
        (b'{"prompt": 1}\n', "line 1 of {path}: 'prompt' must be text"),
        (b'{"prompt": "a"}\nb\n', "line 2 of {path}: not JSON"),
    ],
)
def test_bad_prompts_are_refused_before_the_model_is_loaded(qwenctl, demo_gguf, tmp_path, data, message):
    path = tmp_path / "prompts"
    path.write_bytes(data)
    ran = qwenctl("experts", demo_gguf, "--prompts", path, "--trace", tmp_path / "t")
    assert (ran.code, ran.stdout) == (2, "")
    assert message.format(path=path) in ran.stderr
    assert not (tmp_path / "t").exists()


def test_damaged_and_cut_traces(qwenctl, trace):
    whole = trace.read_bytes()
    trace.write_bytes(whole[:-1])
    ran = qwenctl("experts", "--from-trace", trace, "--csv", "-q")
    assert ran.code == 0
    assert ran.stderr == "warning: the trace ends in an incomplete record of 9 bytes, which was left out\n"
    assert "4,7,9," in ran.stdout
    for data, message in (
        (whole[:30], "ends within its header"),
        (whole[:32], "holds no routing"),
        (whole[:32] + b"\xff" * 20, "is damaged: the record at byte 32 says layer 65535"),
        (b"text", "is no routing trace"),
    ):
        trace.write_bytes(data)
        ran = qwenctl("experts", "--from-trace", trace)
        assert (ran.code, ran.stdout) == (2, "")
        assert message in ran.stderr
        assert len(ran.stderr.splitlines()) <= 2


def test_another_file_is_not_overwritten(qwenctl, demo_gguf, tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work", encoding="utf-8")
    ran = qwenctl("experts", demo_gguf, *QUICK, "--trace", path)
    assert (ran.code, ran.stdout) == (2, "")
    assert "holds something else than a routing trace" in ran.stderr
    assert path.read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize("mode", [[], ["--csv"], ["--json"]])
def test_a_reader_that_leaves_early_ends_it_without_a_word(tmp_path, mode):
    path = write_trace(tmp_path / "t", n_experts=8192)
    command = [sys.executable, "-m", "qwenctl", "experts", "--from-trace", str(path), "-q", *mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
