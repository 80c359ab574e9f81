"""Plans of models that are named: what `run` would decide, and what comes from a hub before any weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quant.errors import JsonFileError
from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufField, GgufTensor, GgufValueType, plan_layout
from quant.model_outline import outline_of_gguf
from quant.recipe import OUTPUT_TYPES
from qwenctl.errors import DoesNotFit, InvalidRequest, ModelNotFound
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.planning.machine_text import parse_machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, ExpertLayout, try_place
from qwenctl.services import expert_offload
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import ContextSize, io_threads, open_ggml
from qwenctl.services.offload_layout import groups_with
from qwenctl.services.plan_source import find_source
from qwenctl.services.planner import Planner
from qwenctl.settings import Settings
from qwenctl.units import GIB
from scripts.plan_check.memory_cases import CONFIGS, K, read_outline
from scripts.plan_check.no_alloc import write_header
from tests.hub_server.server import HubServer
from tests.tiny_gguf import TinyGguf

SMALL = "Qwen3-30B-A3B-Instruct-2507"
NOTHING = object()  # fits


@pytest.fixture(scope="module")
def header_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 30B-A3B at its true size, whose weights are a hole."""
    path = tmp_path_factory.mktemp("headers") / "30b.gguf"
    write_header(read_outline(SMALL), OUTPUT_TYPES["q4_k_m"], path)
    return path


@pytest.mark.parametrize(
    ("gib", "cards"), [(8, ()), (16, ()), (32, ()), (16, (12,)), (64, (12,)), (24, (8, 8)), (64, (24,)), (64, (16, 8))]
)
@pytest.mark.parametrize("n_ctx", [8 * K, 64 * K])
def test_plan_decides_as_run_does(header_only: Path, gib: int, cards: tuple[int, ...], n_ctx: int) -> None:
    devices = tuple(DeviceMemory(f"CUDA{i}", card * GIB, card * GIB) for i, card in enumerate(cards))
    memory = MachineMemory(gib * GIB, 0, gib * GIB, "the test", shared=False, devices=devices)
    gguf, ggml, options = read_gguf(header_only), open_ggml(), EngineOptions(n_ctx=n_ctx)
    experts = read_expert_map(gguf)
    assert experts is not None
    try:
        decided = expert_offload.decide(gguf, experts, ggml, options, memory, ContextSize(n_ctx, 1, 1, 2))
    except DoesNotFit:
        decided = NOTHING

    described = parse_machine(",".join([*(f"{card}GiB" for card in cards), f"{gib}GiB ram"]))
    model = PlannedModel.of(outline_of_gguf("30b", gguf), None)
    groups = groups_with(ggml, experts, options, 2, None, has_devices=bool(cards))
    layouts = tuple(
        tuple(ExpertLayout(one.choice, one.slot_bytes, one.rates, io_threads(one)) for one in group) for group in groups
    )
    placement = try_place(model, replace(described, memory=memory), ContextRequest(n_ctx), layouts)
    if placement is None or decided is NOTHING:
        assert (placement, decided) == (None, NOTHING)
    elif decided is None:
        assert placement.offload is None
    else:
        assert placement.offload == decided.plan


def test_a_file_here_is_planned_with_its_own_types(tmp_path: Path) -> None:
    path = TinyGguf.of("qwen3moe").write(tmp_path / "tiny.gguf")
    settings = Settings.from_environment({"HOME": str(tmp_path)})
    source = find_source(str(path), None, settings)
    advice = Planner(source, settings).advise(None, None, ContextRequest(256))
    assert advice.plan.model.quant is None
    assert advice.plan.model.file_bytes == pytest.approx(path.stat().st_size, abs=64)
    assert advice.commands == (f"qwenctl chat {path} --ctx 256",)
    with pytest.raises(InvalidRequest, match="has its types"):
        Planner(source, settings).advise(None, "q4_k_m", ContextRequest(256))


def test_a_file_without_a_language_model_is_refused(tmp_path: Path) -> None:
    metadata = {"general.architecture": GgufField(GgufValueType.STRING, "clip")}
    layout = plan_layout(metadata, [GgufTensor("v.patch_embd.weight", (8, 32), GGML_TYPES["F32"])])
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(layout.header.ljust(layout.total_bytes, b"\0"))
    with pytest.raises(InvalidRequest, match=r"mmproj\.gguf holds no language model"):
        find_source(str(path), None, Settings.from_environment({"HOME": str(tmp_path)}))


def test_a_path_that_is_not_there_is_not_looked_for_on_a_hub(tmp_path: Path) -> None:
    settings = Settings.from_environment({"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    with pytest.raises(ModelNotFound):
        find_source(str(tmp_path / "missing.gguf"), None, settings)


@pytest.fixture(scope="module")
def hub(header_only: Path) -> HubServer:
    with HubServer() as server:
        config = (CONFIGS / "Qwen3-235B-A22B-Instruct-2507.json").read_bytes()
        server.add("Qwen/Qwen3-235B-A22B-Instruct-2507", {"config.json": config, "model.safetensors": bytes(1 << 20)})
        tiny = TinyGguf.of("qwen3moe").write(header_only.parent / "tiny.gguf")
        server.add("u/tiny-GGUF", {"tiny-F32.gguf": tiny})
        yield server


def hub_settings(hub: HubServer, home: Path) -> Settings:
    return Settings.from_environment({"HOME": str(home), "HF_ENDPOINT": hub.url})


def test_a_checkpoint_on_a_hub_is_planned_from_its_configuration_alone(hub: HubServer, tmp_path: Path) -> None:
    settings = hub_settings(hub, tmp_path)
    before = hub.served.get("Qwen/Qwen3-235B-A22B-Instruct-2507/model.safetensors", 0)
    source = find_source("qwen3:235b-a22b-instruct-2507", None, settings)
    advice = Planner(source, settings).advise("2xa100", None, ContextRequest(32 * K))
    assert advice.plan.model.quant == "q4_k_m"
    assert advice.commands == (
        "qwenctl pull qwen3:235b-a22b-instruct-2507 --quant q4_k_m",
        "qwenctl chat qwen3-235b-a22b-instruct-2507-q4_k_m --ctx 32k",
    )
    assert advice.vllm is not None
    assert "--tensor-parallel-size 2" in advice.vllm.serve
    assert hub.served.get("Qwen/Qwen3-235B-A22B-Instruct-2507/model.safetensors", 0) == before


def test_a_gguf_file_on_a_hub_is_planned_from_its_header(hub: HubServer, tmp_path: Path) -> None:
    settings = hub_settings(hub, tmp_path)
    source = find_source("u/tiny-GGUF", None, settings)
    local = outline_of_gguf("tiny", read_gguf(TinyGguf.of("qwen3moe").write(tmp_path / "tiny.gguf")))
    assert source.kind == "hub gguf"
    assert dict(source.outline.shapes) == dict(local.shapes)
    advice = Planner(source, settings).advise("laptop-16", None, ContextRequest(256))
    assert advice.commands[0] == "qwenctl pull u/tiny-GGUF"


@pytest.mark.parametrize(
    ("config", "message"),
    [(b"[" * 100_000, "nested too deeply"), (b'{"a": 1, "a": 2}', "appears twice"), (b"[]", "an object must be")],
)
def test_a_configuration_on_a_hub_is_read_as_strictly_as_one_here(tmp_path: Path, config: bytes, message: str) -> None:
    with HubServer() as server:
        server.add("u/bad", {"config.json": config, "model.safetensors": bytes(64)})
        with pytest.raises(JsonFileError, match=message):
            find_source("u/bad", None, hub_settings(server, tmp_path))
