"""What tests of offloading share: options of stock and offloaded models, and a context that tells every logit.

`Run` opens a model through the program's own NativeModel, and makes a context of its own on it, in which every position
of every sequence has logits. A script of decode calls, played on a stock model and on an offloaded one, gives arrays
that can be held against each other bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp
import numpy as np

from qwenctl.moe.expert_session import ExpertSession
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.native_model import NativeModel
from tests.tiny_gguf import F32, STRING, U32, TinyGguf, TinyTensor, header, padded, pair, tensor_info

N_SEQUENCES = 4
SIZES = (1, 2, 7, 64, 512)  # of the batches that gates must hold for
Q8_0 = 8
_N_CTX = 640
_N_UBATCH = 512
Piece = tuple[int, int, Sequence[int]]  # sequence, position of the first token, tokens


def stock(**more: Any) -> EngineOptions:
    """Options of stock llama.cpp with experts in the file's layout, as the offloaded runs have them."""
    more = {"n_ctx": 256, "n_threads": 1, "repack": False, "flash_attention": False, "n_ubatch": _N_UBATCH} | more
    return EngineOptions(offload=OffloadOptions(mode="off"), **more)


def offloaded(n_slots: int | None, *, parallel: int = 1, repack: bool = False, **offload: Any) -> EngineOptions:
    """The same options, with experts offloaded; `n_slots` in every layer, None: as many as there is memory for."""
    offload = {"layout": "plain", "operation": "id"} | offload
    options = stock(n_parallel=parallel, repack=repack)
    return replace(options, offload=OffloadOptions(mode="on", n_slots=n_slots, **offload))


class Run:
    """An opened model and a context of 4 sequences of 640 cells, micro-batches of 512, logits at every position."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.model = NativeModel(path, options)
        handle = self.model._model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = _N_CTX * N_SEQUENCES, N_SEQUENCES
        params.n_batch = params.n_ubatch = params.n_outputs_max = _N_UBATCH
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type, params.kv_unified = 0, False
        self._context = llama_cpp.llama_init_from_model(handle, params)
        assert self._context
        self._batch = llama_cpp.llama_batch_init(_N_UBATCH, 0, 1)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(handle)))

    def decode(self, *pieces: Piece, last_only: bool = False) -> np.ndarray:
        """Compute pieces of sequences as one batch; return the logits of all their tokens, f32 (n_tokens, n_vocab).

        With `last_only`, those of the last token of each piece, as generation wants them: f32 (n_pieces, n_vocab).
        """
        rows = [
            (token, first + i, name, not last_only or i == len(tokens) - 1)
            for name, first, tokens in pieces
            for i, token in enumerate(tokens)
        ]
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, name, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = int(token), position, 1
            batch.seq_id[index][0], batch.logits[index] = name, wanted
        if self.session is not None:
            self.session.before_batch(len(rows))
        status = llama_cpp.llama_decode(self._context, batch)
        if self.session is not None:
            if (error := self.session.take_error()) is not None:
                raise error
            self.session.after_batch()
        assert status == 0
        shape = (len(pieces) if last_only else len(rows), self.n_vocab)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), shape=shape).copy()

    def forget(self) -> None:
        """Empty all sequences."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    @property
    def session(self) -> ExpertSession | None:
        """The scheduler, None for stock."""
        return self.model._offload.session if self.model._offload else None

    @property
    def stats(self) -> dict[str, Any]:
        """What the scheduler counted."""
        stats = self.model.offload_stats()
        assert stats is not None
        return stats

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.session is not None and error is None:
            self.session.check_integrity()
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        self.model.close()


@dataclass(frozen=True, slots=True)
class Played:
    """What a script gave: the logits of every decode call, and the greedy tokens among what it computed."""

    logits: list[np.ndarray]
    greedy: list[int]


def play_sizes(run: Run, n_generated: int = 6) -> Played:
    """Prompts of every size in SIZES, one after the other, and greedy tokens after each."""
    logits: list[np.ndarray] = []
    greedy: list[int] = []
    for size in SIZES:
        run.forget()
        logits.append(run.decode((0, 0, text(run, size, seed=size))))
        for step in range(n_generated):
            greedy.append(int(logits[-1][-1].argmax()))
            logits.append(run.decode((0, size + step, [greedy[-1]])))
    return Played(logits, greedy)


def play_together(run: Run, n_generated: int = 6) -> Played:
    """Four sequences at once: their prompts of different lengths in one batch, then a token of each, greedy."""
    run.forget()
    prompts = [text(run, size, seed=size) for size in (3, 17, 40, 64)]
    first = run.decode(*((name, 0, tokens) for name, tokens in enumerate(prompts)))
    logits, greedy = [first], []
    last = np.cumsum([len(tokens) for tokens in prompts]) - 1
    best = [int(first[row].argmax()) for row in last]
    for step in range(n_generated):
        greedy += best
        logits.append(run.decode(*((name, len(prompts[name]) + step, [best[name]]) for name in range(4))))
        best = [int(row.argmax()) for row in logits[-1]]
    return Played(logits, greedy)


def play_all(run: Run) -> Played:
    """Both scripts."""
    alone, together = play_sizes(run), play_together(run)
    return Played(alone.logits + together.logits, alone.greedy + together.greedy)


def text(run: Run, n_tokens: int, seed: int) -> list[int]:
    """Return random tokens below the special ones: routing is what matters, not sense."""
    random = np.random.default_rng(seed)
    return [int(token) for token in random.integers(0, min(250, run.n_vocab), size=n_tokens)]


def assert_same(played: Played, reference: Played) -> None:
    """Bit for bit; not one NaN, and not one logit for all."""
    assert played.greedy == reference.greedy
    for ours, theirs in zip(played.logits, reference.logits, strict=True):
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
    assert all(np.isfinite(one).all() and one.std() > 0 for one in reference.logits)


def merged_gguf(path: Path) -> Path:
    """Write a random model with merged gate and up: deepseek2-ocr, 2 layers, 64 wide, 6 experts, 2 used, 1 shared."""
    tiny = TinyGguf.of("qwen3moe")
    name = "deepseek2-ocr"
    counts = {
        "attention.head_count_kv": 2,
        "expert_count": 6,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
        "expert_shared_count": 1,
        "leading_dense_block_count": 0,
    }
    tiny.pairs = {key.replace("qwen3moe", name): value for key, value in tiny.pairs.items()}
    tiny.pairs["general.architecture"] = (tiny.pairs["general.architecture"][0], name)
    tiny.pairs |= {f"{name}.{key}": (U32, count) for key, count in counts.items()}
    tiny.pairs |= {f"{name}.expert_weights_scale": (F32, 1.0), f"{name}.rope.freq_base": (F32, 10000.0)}
    for layer in range(2):
        block = f"blk.{layer}."
        for gone in ("attn_q_norm", "attn_k_norm", "ffn_gate_exps", "ffn_up_exps"):
            del tiny.tensors[f"{block}{gone}.weight"]
        shapes = {
            "attn_k": (64, 64),
            "attn_v": (64, 64),
            "ffn_gate_inp": (6, 64),
            "ffn_gate_up_exps": (6, 64, 64),
            "ffn_down_exps": (6, 64, 32),
            "ffn_gate_shexp": (32, 64),
            "ffn_up_shexp": (32, 64),
            "ffn_down_shexp": (64, 32),
        }
        tiny.tensors |= {f"{block}{tensor}.weight": TinyTensor(shape) for tensor, shape in shapes.items()}
    return tiny.write(path)


def large_gguf(path: Path, n_layers: int = 12, n_experts: int = 64, width: int = 512) -> Path:
    """Write a random Qwen3-MoE of 0.6 GiB: 512 wide, 12 layers of 64 experts of 512, 8 used, Q8_0; in a second or two.

    Experts are cut from one pool of blocks, at different places, so that they differ.
    """
    tiny = TinyGguf.of("qwen3moe")
    name, heads = "qwen3moe", 512
    sizes = {"block_count": n_layers, "embedding_length": 512, "expert_count": n_experts, "expert_used_count": 8}
    sizes |= {"expert_feed_forward_length": width, "attention.head_count": 16, "context_length": 1024}
    tiny.pairs |= {f"{name}.{key}": (U32, count) for key, count in sizes.items()}
    tiny.pairs["tokenizer.chat_template"] = (STRING, "{% for m in messages %}{{ m.content }}{% endfor %}")
    n_vocab = tiny.tensors["token_embd.weight"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {"attn_norm": (512,), "ffn_norm": (512,), "attn_q": (heads, 512)}
    shapes |= {"attn_k": (32, 512), "attn_v": (32, 512), "attn_output": (512, heads)}
    shapes |= {"attn_q_norm": (32,), "attn_k_norm": (32,), "ffn_gate_inp": (n_experts, 512)}
    tiny.tensors = {"token_embd.weight": TinyTensor((n_vocab, 512)), "output_norm.weight": TinyTensor((512,))}
    for layer in range(n_layers):
        tiny.tensors |= {f"blk.{layer}.{tensor}.weight": TinyTensor(shape) for tensor, shape in shapes.items()}
        for kind, shape in (("gate", (width, 512)), ("up", (width, 512)), ("down", (512, width))):
            tiny.tensors[f"blk.{layer}.ffn_{kind}_exps.weight"] = TinyTensor((n_experts, *shape), Q8_0)
    return _write_with_pool(tiny, path)


def _write_with_pool(tiny: TinyGguf, path: Path) -> Path:
    """Write a model tensor by tensor; the blocks of Q8_0 tensors come from a pool."""
    random = np.random.default_rng(0)
    blocks = np.zeros(1 << 18, dtype=[("scale", "<f2"), ("weights", "i1", 32)])
    blocks["scale"] = 0.0005
    blocks["weights"] = random.integers(-127, 128, (len(blocks), 32), dtype=np.int8)
    pool = np.tile(blocks.view(np.uint8), 2)
    sizes = [
        int(np.prod(one.shape)) // 32 * 34 if one.type_id == Q8_0 else 4 * int(np.prod(one.shape))
        for one in tiny.tensors.values()
    ]
    starts = np.concatenate([[0], np.cumsum([-(-size // 32) * 32 for size in sizes])])
    infos = [
        tensor_info(name, one.shape[::-1], one.type_id, int(start))
        for (name, one), start in zip(tiny.tensors.items(), starts[:-1], strict=True)
    ]
    with path.open("wb") as file:
        file.write(padded(header([pair(key, *value) for key, value in tiny.pairs.items()], infos)))
        for one, size in zip(tiny.tensors.values(), sizes, strict=True):
            first = 34 * int(random.integers(0, len(blocks)))
            if one.type_id != Q8_0:
                file.write(padded(one.to_bytes(random)))
                continue
            for done in range(0, size, len(blocks) * 34):
                file.write(pool[first : first + min(size - done, len(blocks) * 34)])
    return path
