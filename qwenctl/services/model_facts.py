"""What an opened model's file says of itself: the metadata that the engine and its users need."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp

from qwenctl.core import ModelInfo
from qwenctl.services.split_files import model_files
from qwenctl.services.vocabulary import Vocabulary

_SAMPLING = "general.sampling."


def metadata_text(model: Any, key: str) -> str | None:
    """Return a value as llama.cpp writes it, or None without that key."""
    n_bytes = llama_cpp.llama_model_meta_val_str(model, key.encode(), None, 0)
    if n_bytes < 0:
        return None
    buffer = ctypes.create_string_buffer(n_bytes + 1)
    llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def model_info(path: Path, model: Any, vocabulary: Vocabulary, n_ctx: int) -> ModelInfo:
    """Gather what the commands show and decide by."""
    architecture = metadata_text(model, "general.architecture") or "unknown"
    template = llama_cpp.llama_model_chat_template(model, None)
    vocab = vocabulary.handle
    return ModelInfo(
        path=str(path),
        name=metadata_text(model, "general.name") or path.stem,
        architecture=architecture,
        n_weights=int(llama_cpp.llama_model_n_params(model)),
        file_bytes=sum(part.stat().st_size for part in model_files(path)),
        n_layers=int(llama_cpp.llama_model_n_layer(model)),
        n_experts=_count(model, f"{architecture}.expert_count"),
        n_experts_used=_count(model, f"{architecture}.expert_used_count"),
        n_vocab=vocabulary.n_tokens,
        n_ctx_train=int(llama_cpp.llama_model_n_ctx_train(model)),
        n_ctx=n_ctx,
        chat_template=template.decode("utf-8", "replace") if template else None,
        sampling_defaults=_sampling_defaults(model),
        bos_token=vocabulary.text(llama_cpp.llama_vocab_bos(vocab)),
        eos_token=vocabulary.text(llama_cpp.llama_vocab_eos(vocab)),
    )


def _count(model: Any, key: str) -> int:
    text = metadata_text(model, key) or ""
    return int(text) if text.isdigit() else 0


def _sampling_defaults(model: Any) -> dict[str, float]:
    """Return the numbers under general.sampling.*, by the rest of their names."""
    defaults: dict[str, float] = {}
    for index in range(llama_cpp.llama_model_meta_count(model)):
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
        key = buffer.value.decode("utf-8", "replace")
        if key.startswith(_SAMPLING):
            try:
                defaults[key.removeprefix(_SAMPLING)] = float(metadata_text(model, key) or "")
            except ValueError:
                continue  # general.sampling.sequence is a text
    return defaults
