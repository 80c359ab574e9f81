"""What `run`, `chat` and `batch` make of the options that open a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from qwenctl.cli.engine_flags import engine_flags
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions
from qwenctl.settings import Settings
from qwenctl.telemetry.routing_trace import TraceReader

GIB = 1 << 30


def parsed(*words, n_threads=None):
    """The options that a command gets, or the usage error's text."""
    found = []

    @click.command()
    @engine_flags
    def command(*, engine):
        found.append(engine)

    settings = Settings(Path("data"), Path("cache"), Path("models"), n_threads=n_threads)
    ran = CliRunner().invoke(command, words, obj=settings)
    if isinstance(ran.exception, InvalidRequest):
        raise ran.exception
    assert ran.exit_code in (0, 2), ran.exception
    return found[0] if found else ran.stderr


def test_without_options_everything_is_left_to_the_engine():
    assert parsed() == EngineOptions()


def test_every_option_arrives():
    engine = parsed("--ctx", "4k", "--threads", "3", "--ram", "48GiB", "--offload", "on")
    assert engine == EngineOptions(n_ctx=4096, n_threads=3, offload=OffloadOptions("on", 48 * GIB))
    assert parsed("--ram", "500MB").offload.ram_bytes == 500_000_000
    assert parsed("--trace", "~/t").trace_file == str(Path.home() / "t")
    assert parsed("--rpc", "localhost:5000", "--rpc", "localhost:5001").rpc == ("localhost:5000", "localhost:5001")


def test_the_environment_chooses_threads_where_no_option_does():
    assert parsed(n_threads=7).n_threads == 7
    assert parsed("--threads", "2", n_threads=7).n_threads == 2


@pytest.mark.parametrize(("text", "n_tokens"), [("4096", 4096), ("32K", 32768), ("1m", 1 << 20), ("1M", 1 << 20)])
def test_numbers_of_tokens(text, n_tokens):
    assert parsed("--ctx", text).n_ctx == n_tokens


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--ctx", "0k"), "'0k' is not a number of tokens"),
        (("--ctx", "4g"), "'4g' is not a number of tokens"),
        (("--ctx", "9999m"), "'9999m' is not a number of tokens"),
        (("--ram", "much"), "'much' is not a size"),
        (("--ram", "48Gi"), "'48Gi' is not a size"),
        (("--ram", "-1GiB"), "is not a size"),
        (("--ram", "1MiB"), "'1MiB' is not between 16.0 MiB and 1.0 PiB"),
        (("--ram", "2000TiB"), "'2000TiB' is not between 16.0 MiB and 1.0 PiB"),
        (("--offload", "maybe"), "'maybe' is not one of"),
    ],
)
def test_values_that_make_no_sense_are_usage_errors(words, reason):
    assert reason in parsed(*words)


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(InvalidRequest, match="--ram and --offload off exclude each other"):
        parsed("--ram", "8GiB", "--offload", "off")


@pytest.mark.usefixtures("shared_cache")
def test_an_offloaded_run_says_where_the_experts_are(qwenctl, demo_gguf):
    words = ["run", demo_gguf, "Hello", "--max-tokens", "4", "--threads", "1", "--seed", "1"]
    ran = qwenctl(*words, "--offload", "on", "--ram", "1GiB", "--json")
    assert ran.code == 0
    assert ran.stderr.startswith("experts: all 16 a layer in ")
    offload = json.loads(ran.stdout)["offload"]
    assert offload["placement"]["budget_bytes"] == GIB
    assert offload["bytes_read"] > 0
    stats = qwenctl(*words, "--offload", "on", "--stats", "-q").stderr
    for name in ("experts", "memory", "budget", "found there", "read", "generating", "prompts"):
        assert f"\n{name} " in stats
    stock = qwenctl(*words, "--offload", "off", "--json")
    assert "experts" not in stock.stderr
    assert json.loads(stock.stdout)["offload"] is None


@pytest.mark.usefixtures("shared_cache")
def test_too_small_a_budget_ends_with_3_and_a_hint_that_works(demo_gguf):
    """In processes of their own: this one, which runs all tests, grows between a hint and its trial."""

    def run(n_mib):
        words = ["run", str(demo_gguf), "Hello", "--max-tokens", "1", "--threads", "1", "-q", "--ram", f"{n_mib}MiB"]
        return subprocess.run([sys.executable, "-m", "qwenctl", *words], capture_output=True, text=True, check=False)

    n_mib, ran = 20, run(20)
    for _ in range(3):  # a process may take a page more than the one that gave the hint
        assert ran.returncode == 3
        assert "error: the model needs at least " in ran.stderr
        budget = re.search(r"hint: use --ram (\d+)MiB or more\n", ran.stderr)
        assert budget is not None
        n_mib = int(budget[1])
        ran = run(n_mib)
        if ran.returncode == 0:
            break
    assert ran.returncode == 0
    assert run(n_mib - 1).returncode == 3


@pytest.mark.usefixtures("shared_cache")
def test_a_run_can_be_traced(qwenctl, demo_gguf, tmp_path):
    ran = qwenctl("run", demo_gguf, "Hello", "--max-tokens", "4", "--threads", "1", "--trace", tmp_path / "t", "-q")
    assert ran.code == 0
    assert TraceReader(tmp_path / "t").header.n_experts > 1
