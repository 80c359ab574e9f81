"""Dividing here and multiplying there leaves a layer's function as it was, router included; nothing is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant.checkpoint import open_checkpoint
from quant.export_folds import ScaleSite, find_sites, folds_of
from quant.export_tensors import ExportTensor, export_tensors
from quant.hf_config import HfConfig, read_config
from quant.tensor_names import map_tensors
from tests.quant.numpy_layer import layer_output
from tests.tiny_checkpoint import TinyModel, tiny_weights, write_checkpoint

MODELS = {
    "mixture of experts, shared key heads": TinyModel(n_layers=1, n_experts=3, dtype="F32"),
    "mixture of experts, a key head each": TinyModel(n_layers=1, n_experts=2, n_heads=4, n_kv_heads=4, dtype="F32"),
    "dense": TinyModel("Qwen3ForCausalLM", n_layers=1, dtype="F32"),
    "dense with biases": TinyModel(
        "Qwen2ForCausalLM", n_layers=1, n_heads=4, n_kv_heads=2, head_dim=64, hidden=256, dtype="F32"
    ),
}


def sites_of(folder: Path, model: TinyModel) -> tuple[HfConfig, tuple[ExportTensor, ...], tuple[ScaleSite, ...]]:
    write_checkpoint(folder, model)
    config = read_config(folder)
    tensors = export_tensors(config, map_tensors(config, open_checkpoint(folder).tensors))
    return config, tensors, find_sites(config, tensors)


def folded(
    weights: dict[str, np.ndarray], tensors: tuple[ExportTensor, ...], sites: tuple[ScaleSite, ...], only: str = ""
) -> dict[str, np.ndarray]:
    """Return the weights with random factors at every site whose name contains `only`."""
    random = np.random.default_rng(7)
    result = {name: values.astype(np.float64) for name, values in weights.items()}
    for site in sites:
        factors = np.exp(random.standard_normal(site.n_channels)).astype(np.float32)
        if only not in site.name:
            continue
        for number in site.multiplied:
            result[tensors[number].name] *= site.spread(factors)
        for number in site.divided:
            values = result[tensors[number].name]
            values /= factors if values.ndim == 1 else factors[:, None]
    return result


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_layer_computes_what_it_did(tmp_path: Path, model: TinyModel) -> None:
    _, tensors, sites = sites_of(tmp_path, model)
    weights = tiny_weights(model)
    x = np.random.default_rng(0).standard_normal((9, model.hidden))
    before, before_router = layer_output(x, weights, model)
    after, after_router = layer_output(x, folded(weights, tensors, sites), model)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(after_router, before_router, rtol=1e-6, atol=1e-6)


def test_without_the_router_it_would_not(tmp_path: Path) -> None:
    """The mistake that AutoAWQ makes is seen by this comparison."""
    model = MODELS["mixture of experts, shared key heads"]
    _, tensors, sites = sites_of(tmp_path, model)
    weights = tiny_weights(model)
    x = np.random.default_rng(0).standard_normal((9, model.hidden))
    wrong = folded(weights, tensors, sites) | {
        "model.layers.0.mlp.gate.weight": weights["model.layers.0.mlp.gate.weight"]
    }
    _, before = layer_output(x, weights, model)
    assert np.abs(layer_output(x, wrong, model)[1] - before).max() > 0.1


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_packed_matrix_is_behind_a_site(tmp_path: Path, model: TinyModel) -> None:
    _, tensors, sites = sites_of(tmp_path, model)
    folds = folds_of(sites, len(tensors))
    for tensor, fold in zip(tensors, folds, strict=True):
        assert (fold.columns is not None) == (tensor.is_packed or tensor.name.endswith("mlp.gate.weight")), tensor.name
    rows = {tensor.part for tensor, fold in zip(tensors, folds, strict=True) if fold.rows is not None}
    assert {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.v_proj.weight"} < rows


def test_factors_of_key_heads_are_shared_by_their_query_heads() -> None:
    site = ScaleSite("v", 4, (0,), (1,), is_norm=False, block=2, n_repeats=3)
    spread = site.spread(np.array([1, 2, 3, 4], np.float32))
    assert spread.tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]
    assert site.gathered(spread).tolist() == [1, 2, 3, 4]
