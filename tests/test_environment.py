"""The ground the other tests stand on: closed network, own folders, checkpoints that other software can read."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.tiny_checkpoint import TinyModel, fuse_experts, tiny_weights, to_bf16


def test_the_network_is_closed() -> None:
    with pytest.raises(PermissionError, match="must not use the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(PermissionError, match="must not use the network"):
        socket.getaddrinfo("example.org", 443)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_every_test_has_its_own_home(home: Path) -> None:
    assert Path.home() == home
    assert list(home.iterdir()) == []
    assert os.environ["XDG_CACHE_HOME"] == str(home / "cache")
    assert not [name for name in os.environ if name.startswith("QWENCTL_")]


def test_bf16_rounds_to_nearest_even() -> None:
    halfway_down, halfway_up = np.array([0x3F80_8000, 0x3F81_8000], dtype=np.uint32).view(np.float32)
    assert [hex(bits) for bits in to_bf16(np.array([halfway_down, halfway_up]))] == ["0x3f80", "0x3f82"]


def test_fused_experts_hold_the_same_weights() -> None:
    model = TinyModel(n_layers=1)
    weights = tiny_weights(model)
    stacked = fuse_experts(weights, model)["model.layers.0.mlp.experts.gate_up_proj"]
    assert stacked.shape == (model.n_experts, 2 * model.expert_width, model.hidden)
    assert np.array_equal(stacked[3, : model.expert_width], weights["model.layers.0.mlp.experts.3.gate_proj.weight"])
    assert np.array_equal(stacked[3, model.expert_width :], weights["model.layers.0.mlp.experts.3.up_proj.weight"])


def test_tiny_tokenizer_is_read_by_tokenizers(tiny_moe_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_moe_folder / "tokenizer.json"))
    text = "<|im_start|>the thing ä 汉 🙂\n\n</think>"
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    assert max(tokens) < json.loads((tiny_moe_folder / "config.json").read_text())["vocab_size"]
