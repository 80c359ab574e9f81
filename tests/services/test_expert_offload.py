"""When experts are offloaded and when not: what was asked for, what the model, the build and the memory allow."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from quant.gguf_read import read_gguf
from qwenctl.errors import DoesNotFit, InvalidRequest
from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.moe.slot_layout import LayoutMaker
from qwenctl.services import expert_offload
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_devices import engine_devices
from qwenctl.services.expert_offload import ContextSize, open_ggml, open_offload
from tests.tiny_gguf import TinyGguf

ABORT = (0, 0)
CONTEXT = ContextSize(256, 1, 1, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers of 4 experts, 2 used."""
    return TinyGguf.of("qwen3moe").write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyGguf.of("qwen3").write(tmp_path_factory.mktemp("dense") / "dense.gguf")


def options(mode: str = "on", **offload: object) -> EngineOptions:
    return EngineOptions(n_ctx=256, n_threads=1, offload=OffloadOptions(mode=mode, **offload))


def opened(path: Path, asked: EngineOptions) -> tuple[dict[str, object] | None, list[str]]:
    """Return what `open_offload` planned, None for stock, and its warnings; nothing stays open."""
    warnings: list[str] = []
    offload = open_offload(read_gguf(path), asked, engine_devices(None), CONTEXT, ABORT, warnings)
    if offload is None:
        return None, warnings
    try:
        return offload.plan.as_json(), warnings
    finally:
        offload.close()


def test_off_and_auto_leave_a_small_model_to_stock(tiny: Path) -> None:
    assert opened(tiny, options("off")) == (None, [])
    assert opened(tiny, options("auto")) == (None, [])


def test_on_offloads_what_would_fit(tiny: Path) -> None:
    plan, warnings = opened(tiny, options("on"))
    assert (plan["n_slots"], plan["resident"], warnings) == ([4, 4], True, [])


def test_auto_offloads_what_does_not_fit(tiny: Path) -> None:
    """Fewer slots than experts stand for too little memory."""
    plan, warnings = opened(tiny, options("auto", n_slots=3))
    assert (plan["n_slots"], plan["resident"], warnings) == ([3, 3], False, [])


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_a_dense_model_is_none_of_its_business(dense: Path, mode: str) -> None:
    assert opened(dense, options(mode)) == (None, [])


def test_a_dense_model_cannot_be_offloaded(dense: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--offload on: .*expert") as caught:
        Engine.open(dense, options("on"))
    assert caught.value.hint == "leave --offload out"


@pytest.fixture
def unknown_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another llama.cpp than the one that is known."""

    def refuse(library: ctypes.CDLL) -> None:
        raise UnknownBuild("the installed ggml 9.9.9 (abcdef) is not ggml 0.0.1")

    monkeypatch.setattr(expert_offload, "check_abi", refuse)


@pytest.mark.usefixtures("unknown_build")
def test_an_unknown_build_goes_on_without_and_says_so_once(tiny: Path) -> None:
    with Engine.open(tiny, options("auto")) as engine:
        (warning,) = engine.warnings
        assert warning == "experts are not offloaded: the installed ggml 9.9.9 (abcdef) is not ggml 0.0.1"
        assert engine.offload_stats() is None
        assert engine.placement is None


@pytest.mark.usefixtures("unknown_build")
def test_an_unknown_build_is_an_error_where_offloading_was_asked_for(tiny: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--offload on: the installed ggml 9\.9\.9"):
        opened(tiny, options("on"))


@pytest.mark.usefixtures("unknown_build")
@pytest.mark.parametrize("name", ["dense", "tiny"])
def test_an_unknown_build_is_no_matter_to_who_offloads_nothing(name: str, dense: Path, tiny: Path) -> None:
    path, mode = (dense, "auto") if name == "dense" else (tiny, "off")
    assert opened(path, options(mode)) == (None, [])


def test_a_system_without_streams_goes_on_without(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_offload, "can_stream", lambda: False)
    plan, (warning,) = opened(tiny, options("auto"))
    assert plan is None
    assert warning.startswith("experts are not offloaded: ")
    with pytest.raises(InvalidRequest, match="fopencookie"):
        opened(tiny, options("on"))


def test_the_least_memory(tiny: Path) -> None:
    with pytest.raises(DoesNotFit, match="--ram is 16") as caught:
        opened(tiny, options("on", ram_bytes=16 << 20))
    smallest = int(caught.value.hint.split()[2].removesuffix("MiB")) << 20
    plan, _ = opened(tiny, options("on", ram_bytes=smallest))
    assert plan["budget_bytes"] == smallest
    assert plan["free_bytes"] >= 0


def test_fewer_slots_than_a_token_uses(tiny: Path) -> None:
    with pytest.raises(InvalidRequest, match="1 slots a layer, but each token uses 2 experts"):
        opened(tiny, options("on", n_slots=1))


def test_a_layout_that_this_machine_has_not(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayoutMaker, "available", lambda maker: ("plain",))
    with pytest.raises(InvalidRequest, match="no layout 'amx'") as caught:
        opened(tiny, options("on", layout="amx"))
    assert caught.value.hint == "layouts here: plain"


def test_the_stream_skips_the_experts_and_nothing_else(tiny: Path) -> None:
    gguf = read_gguf(tiny)
    experts = read_expert_map(gguf)
    pieces = expert_offload.stream_pieces(gguf, experts)
    skipped = [piece.n_bytes for piece in pieces if piece.file < 0]
    assert sum(piece.n_bytes for piece in pieces) == tiny.stat().st_size
    assert sum(skipped) == experts.expert_bytes
    position = 0
    for piece in pieces:
        assert piece.file < 0 or piece.offset_bytes == position
        position += piece.n_bytes


def test_the_known_build_is_opened() -> None:
    ggml = open_ggml()
    assert ggml.cpu_device
    assert ggml.folder.is_dir()
