"""Experts foretold by the next layer's router: held against that router in numpy, and against what the demo routes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from quant.codecs.native import encode_rows
from quant.ggml_types import GGML_TYPES
from quant.gguf_read import GgufFile, read_gguf
from quant.libggml import load_libggml
from qwenctl.moe.expert_map import ExpertMap, read_expert_map
from qwenctl.moe.folded_router import folded_routers, router_pairs
from qwenctl.moe.ggml_calls import Ggml, at
from qwenctl.moe.lookahead import RouterLookahead, can_look_ahead
from qwenctl.services.expert_offload import open_ggml
from tests.tiny_gguf import STRING, U32, TinyGguf, TinyTensor

_N_EMBD, _N_EXPERTS, _N_USED = 64, 16, 4


@dataclass
class _Model:
    """A tiny model of 2 layers whose router and norms are known."""

    architecture: str = "qwen3moe"
    norm_name: str = "ffn_norm"
    router_type: str = "F32"
    router: np.ndarray = field(default_factory=lambda: _random(1, _N_EXPERTS, _N_EMBD) / 8)
    norm: np.ndarray = field(default_factory=lambda: 1 + 0.3 * _random(2, _N_EMBD))
    next_norm: np.ndarray = field(default_factory=lambda: 1 + 0.3 * _random(3, _N_EMBD))
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    gating: int | None = None

    def tiny(self) -> TinyGguf:
        tiny, name = TinyGguf.of("qwen3moe"), self.architecture
        tiny.pairs = {key.replace("qwen3moe", name): value for key, value in tiny.pairs.items()}
        tiny.pairs |= {"general.architecture": (STRING, name), f"{name}.expert_count": (U32, _N_EXPERTS)}
        tiny.pairs[f"{name}.expert_used_count"] = (U32, _N_USED)
        if self.gating is not None:
            tiny.pairs[f"{name}.expert_gating_func"] = (U32, self.gating)
        for layer, norm in enumerate((self.norm, self.next_norm)):
            block = f"blk.{layer}."
            del tiny.tensors[f"{block}ffn_norm.weight"]
            tiny.tensors[f"{block}{self.norm_name}.weight"] = _stored(norm)
            tiny.tensors[f"{block}ffn_gate_inp.weight"] = _stored(self.router, self.router_type)
            for kind, shape in (("gate", (32, 64)), ("up", (32, 64)), ("down", (64, 32))):
                tiny.tensors[f"{block}ffn_{kind}_exps.weight"] = TinyTensor((_N_EXPERTS, *shape))
            tiny.tensors |= {f"{block}{tensor}": _stored(values) for tensor, values in self.biases.items()}
        return tiny


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _stored(values: np.ndarray, name: str = "F32") -> TinyTensor:
    rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]), dtype=np.float32)
    data = encode_rows(load_libggml(), GGML_TYPES[name], rows).tobytes()
    return TinyTensor(values.shape, GGML_TYPES[name].type_id, data)


def _opened(model: _Model | TinyGguf, path: Path) -> tuple[GgufFile, ExpertMap]:
    gguf = read_gguf((model if isinstance(model, TinyGguf) else model.tiny()).write(path))
    experts = read_expert_map(gguf)
    assert experts is not None
    return gguf, experts


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return open_ggml()


@pytest.fixture(scope="module")
def cpu(ggml: Ggml) -> Iterator[int]:
    backend = int(ggml.ggml_backend_cpu_init())
    ggml.ggml_backend_cpu_set_n_threads(backend, 1)
    yield backend
    ggml.ggml_backend_free(backend)


@pytest.fixture
def looking(ggml: Ggml, cpu: int, tmp_path: Path) -> Iterator[Callable[[_Model | TinyGguf], RouterLookahead]]:
    made: list[RouterLookahead] = []

    def look(model: _Model | TinyGguf) -> RouterLookahead:
        made.append(RouterLookahead(ggml, cpu, *_opened(model, tmp_path / f"{len(made)}.gguf")))
        return made[-1]

    yield look
    for one in made:
        one.close()


def _check_ranking(ahead: RouterLookahead, model: _Model, scores_of: Callable[[np.ndarray], np.ndarray]) -> None:
    """The k foretold are the k best of the true scores, in their order, up to rounding of 8 bits."""
    for seed in range(10, 30):
        normed = _random(seed, _N_EMBD)
        x = normed * model.norm
        scores = scores_of(model.router @ (normed * model.next_norm))
        found = ahead.predict(0, x.ctypes.data, _N_USED)
        assert len(set(found)) == _N_USED
        best = np.sort(scores)[::-1][:_N_USED]
        np.testing.assert_allclose(scores[found], best, rtol=0, atol=0.03 * np.ptp(scores))
    assert sorted(ahead.predict(0, x.ctypes.data, _N_EXPERTS)) == list(range(_N_EXPERTS))


@pytest.mark.parametrize("router_type", ["F32", "F16", "BF16", "Q8_0"])
def test_what_is_foretold_is_the_next_routers_ranking(looking: Any, router_type: str) -> None:
    model = _Model(router_type=router_type)
    _check_ranking(looking(model), model, lambda logits: logits)


def test_the_norms_of_both_layers_count(looking: Any) -> None:
    """Without the fold, norms this different would rank other experts first."""
    model = _Model(norm=np.exp(_random(4, _N_EMBD)), next_norm=np.exp(_random(5, _N_EMBD)))
    _check_ranking(looking(model), model, lambda logits: logits)
    normed = _random(10, _N_EMBD)
    unfolded = np.argsort(-(model.router @ (normed * model.norm)))[:_N_USED]
    assert set(unfolded.tolist()) != set(np.argsort(-(model.router @ (normed * model.next_norm)))[:_N_USED].tolist())


def test_biases_of_logits(looking: Any) -> None:
    bias = _random(6, _N_EXPERTS)
    model = _Model("gpt-oss", "post_attention_norm", biases={"ffn_gate_inp.bias": bias})
    _check_ranking(looking(model), model, lambda logits: logits + bias)


@pytest.mark.parametrize(
    ("architecture", "norm_name", "gating", "sigmoid"),
    [
        ("deepseek2", "ffn_norm", 2, True),
        ("deepseek2", "ffn_norm", 1, False),
        ("glm4moe", "post_attention_norm", None, True),
        ("ernie4_5-moe", "ffn_norm", None, False),
    ],
)
def test_selection_biases_are_added_behind_the_gate(
    looking: Any, architecture: str, norm_name: str, gating: int | None, sigmoid: bool
) -> None:
    bias = 0.4 * _random(7, _N_EXPERTS)
    model = _Model(architecture, norm_name, biases={"exp_probs_b.bias": bias}, gating=gating)

    def scores(logits: np.ndarray) -> np.ndarray:
        if sigmoid:
            return 1 / (1 + np.exp(-logits)) + bias
        return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() + bias

    _check_ranking(looking(model), model, scores)


def test_norms_of_mixed_sizes_go_to_f16(ggml: Ggml, looking: Any, tmp_path: Path) -> None:
    """One tiny weight in a block of Q8_0 would round the other 31 away."""
    norm = 1 + 0.3 * _random(2, _N_EMBD)
    norm[::32] = 1e-3
    model = _Model(norm=norm)
    (folded,) = folded_routers(load_libggml(), *_opened(model, tmp_path / "model.gguf"))
    assert folded.type.name == "F16"
    (usual,) = folded_routers(load_libggml(), *_opened(_Model(), tmp_path / "usual.gguf"))
    assert usual.type.name == "Q8_0"
    _check_ranking(looking(model), model, lambda logits: logits)


@pytest.mark.parametrize("value", [0.0, 1e-30, float("nan")])
def test_a_norm_that_hides_the_input_foretells_nothing(looking: Any, value: float) -> None:
    norm = 1 + 0.3 * _random(2, _N_EMBD)
    norm[: _N_EMBD // 2] = value
    tiny = _Model().tiny()
    tiny.tensors["blk.0.ffn_norm.weight"] = TinyTensor((_N_EMBD,), 0, norm.astype("<f4").tobytes())
    ahead = looking(tiny)
    assert not ahead.can_predict(0)
    assert ahead.predict(0, norm.ctypes.data, _N_USED) == []


def test_nothing_is_foretold_beyond_the_last_layer(looking: Any) -> None:
    ahead = looking(_Model())
    assert (ahead.can_predict(0), ahead.can_predict(1)) == (True, False)
    assert ahead.predict(1, _random(1, _N_EMBD).ctypes.data, _N_USED) == []


def _changed(change: Callable[[TinyGguf], Any]) -> TinyGguf:
    tiny = _Model().tiny()
    change(tiny)
    return tiny


@pytest.mark.parametrize(
    "tiny",
    [
        _Model("arctic").tiny(),
        _changed(lambda tiny: tiny.tensors.pop("blk.0.ffn_norm.weight")),
        _changed(lambda tiny: tiny.tensors.pop("blk.1.ffn_norm.weight")),
        _changed(lambda tiny: tiny.tensors.pop("blk.1.ffn_gate_inp.weight")),
        _changed(lambda tiny: tiny.tensors.update({"blk.1.ffn_gate_inp.weight": TinyTensor((_N_EXPERTS + 1, 64))})),
        _changed(
            lambda tiny: tiny.__setattr__(
                "tensors", {name.replace("blk.1.", "blk.2."): tensor for name, tensor in tiny.tensors.items()}
            )
        ),
    ],
    ids=["another architecture", "no norm", "no next norm", "no router", "another shape", "a layer between"],
)
def test_models_without_pairs(looking: Any, tiny: TinyGguf, tmp_path: Path) -> None:
    gguf, experts = _opened(tiny, tmp_path / "model.gguf")
    assert not can_look_ahead(gguf, experts)
    assert router_pairs(gguf, experts) == []
    assert looking(tiny).predict(0, _random(1, _N_EMBD).ctypes.data, _N_USED) == []


def test_memory_is_counted_and_given_back(looking: Any, tmp_path: Path) -> None:
    assert can_look_ahead(*_opened(_Model(), tmp_path / "model.gguf"))
    ahead = looking(_Model())
    rows = _N_EXPERTS * _N_EMBD // 32 * 34
    assert rows <= ahead.n_bytes <= rows + _N_EXPERTS * 4 + 256
    ahead.close()
    assert ahead.n_bytes == 0
    assert ahead.predict(0, 0, _N_USED) == []


def test_breaking_off_foretells_nothing(ggml: Ggml, tmp_path: Path) -> None:
    """The callback that ends a request's computing ends this too."""
    backend = int(ggml.ggml_backend_cpu_init())
    stop = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda _: True)
    ahead = RouterLookahead(ggml, backend, *_opened(_Model(), tmp_path / "model.gguf"))
    x = _random(1, _N_EMBD)
    assert len(ahead.predict(0, x.ctypes.data, _N_USED)) == _N_USED
    ggml.ggml_backend_cpu_set_abort_callback(backend, ctypes.cast(stop, ctypes.c_void_p), None)
    assert ahead.predict(0, x.ctypes.data, _N_USED) == []
    ahead.close()
    ggml.ggml_backend_free(backend)


class _Watch:
    """An eval callback: foretells from every layer's "ffn_norm-N", and counts what "ffn_moe_topk-N" confirms."""

    def __init__(self, ahead: RouterLookahead, n_layers: int) -> None:
        self.ahead, self.foretold = ahead, [[] for _ in range(n_layers + 1)]
        self.n_right, self.n_real = [0] * n_layers, [0] * n_layers
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, address: int, is_question: bool, _: object) -> bool:
        tensor = at(address)
        kind, _, layer = tensor.name.partition(b"-")
        if kind not in (b"ffn_norm", b"ffn_moe_topk") or not layer.isdigit():
            return not is_question
        if not is_question:
            self._take(tensor, kind, int(layer))
        return True

    def _take(self, tensor: Any, kind: bytes, layer: int) -> None:
        if tensor.ne[1] != 1:
            return
        if kind == b"ffn_norm":
            self.foretold[layer + 1] = self.ahead.predict(layer, tensor.data, 4)
        elif layer:
            real = (ctypes.c_int32 * tensor.ne[0]).from_address(tensor.data)
            self.n_right[layer] += len(set(real) & set(self.foretold[layer]))
            self.n_real[layer] += len(real)


def test_most_of_the_demos_experts_are_foretold(ggml: Ggml, cpu: int, demo_gguf: Path) -> None:
    """4 of 16 experts by chance are a quarter right; a real model's layers agree far more."""
    gguf = read_gguf(demo_gguf)
    experts = read_expert_map(gguf)
    assert experts is not None
    ahead = RouterLookahead(ggml, cpu, gguf, experts)
    watch = _Watch(ahead, len(experts.layers))
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch, params.cb_eval = 128, 1, 1, watch.callback
    model = llama_cpp.llama_model_load_from_file(str(demo_gguf).encode(), llama_cpp.llama_model_default_params())
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    token = ctypes.c_int32(7)
    for _ in range(60):
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ctypes.pointer(token), 1)) == 0
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(n_vocab,))
        token.value = int(np.argsort(logits)[-2])  # the second best: the best one soon repeats itself
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    ahead.close()
    shares = [right / real for right, real in zip(watch.n_right[1:], watch.n_real[1:], strict=True)]
    assert min(watch.n_real[1:]) == 60 * 4
    assert min(shares) > 0.4
    assert sum(shares) / len(shares) > 0.55
