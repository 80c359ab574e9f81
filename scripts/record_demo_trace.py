"""Record the routing of the demo model over a few dozen prompts: tests/data/demo_routing.npz, for replays of policies.

    record_demo_trace.py MODEL.gguf tests/data/demo_routing.npz

One sequence at a time, its cache emptied in between: the prompt in one batch, then token by token, sampled at
temperature 0.7 from a fixed seed. Chat prompts end where the model ends them, continued text after --tokens tokens.
Stock llama.cpp through its public eval callback, which is asked for the nodes `ffn_moe_topk-<layer>` alone.

    shape      i64 (3,)                             layers, experts, experts used
    n_tokens   u16 (n_batches, n_layers)            tokens of each layer of each batch (the last layer computes but the
                                                    tokens whose logits are wanted)
    ids        u8  (sum of n_tokens, n_experts)     all experts by the router's liking, the routed ones first, layer
                                                    after layer, batch after batch
"""

from __future__ import annotations

import argparse
import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

CHAT = """
What is the capital of France?
Tell me about the horse.
What colour is grass?
How many legs does a spider have?
What is 17 plus 25?
Count from 1 to 20.
What is the opposite of hot?
How many days does February have?
Which country has Tokyo as its capital?
Describe a cat.
What does a cow eat?
What sound does a dog make?
List the months of the year.
What is the capital of Germany, and in which continent is it?
Translate 'water' into German.
Spell the word 'house'.
What comes after Tuesday?
How many centimetres are in a metre?
What is 9 times 8?
Is a whale a mammal?
Tell me about Italy.
Hello! Who are you?
What is a young dog called?
Sort 5, 3, 9 and 1.
""".strip().splitlines()

TEXT = """
In the beginning
The package manager installs
Um ein neues Paket zu bauen,
Le noyau du système
En el principio
Il sistema operativo
Para instalar o sistema,
Установка системы
カーネルを
安装程序
A philosopher is
To configure the network, edit the file /etc/network/interfaces and
""".strip().splitlines()


class Tensor(ctypes.Structure):
    """The head of ggml_tensor, of the release that is pinned."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    )  # fmt: skip


class Recorder:
    """Collects what the eval callback sees: for the running batch one array (n_tokens, n_experts) a layer."""

    def __init__(self) -> None:
        self.layers: dict[int, npt.NDArray[np.uint8]] = {}
        self.n_used = 0
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._see)

    def _see(self, address: int, ask: bool, _: int) -> bool:
        tensor = ctypes.cast(address, ctypes.POINTER(Tensor)).contents
        if not tensor.name.startswith(b"ffn_moe_topk-"):
            return not ask
        if not ask:
            self.n_used, n_tokens = tensor.ne[0], tensor.ne[1]  # a view of whole rows, sorted by the router
            rows = ctypes.string_at(tensor.data, n_tokens * tensor.nb[1])
            ids = np.frombuffer(rows, np.int32).reshape(n_tokens, -1)
            self.layers[int(tensor.name.split(b"-")[1])] = ids.astype(np.uint8)
        return True

    def take(self) -> list[npt.NDArray[np.uint8]]:
        """Return the batch's ids: (n_tokens, n_experts) for each layer."""
        ids = [self.layers[layer] for layer in sorted(self.layers)]
        self.layers.clear()
        return ids


class Model:
    """The demo under stock llama.cpp, one sequence."""

    def __init__(self, path: Path, recorder: Recorder) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 1024
        params.n_threads = params.n_threads_batch = 2
        params.cb_eval = recorder.callback
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def forget(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of `text`."""
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        n_tokens = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), True, True)
        return list(ids[:n_tokens])

    def decode(self, tokens: list[int]) -> npt.NDArray[np.float64]:
        """Compute `tokens` after what is cached; return the last one's logits, (n_vocab,)."""
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.n_vocab,)).astype(np.float64)


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--tokens", type=int, default=120, help="most new tokens a prompt")
    arguments = parser.parse_args()
    recorder = Recorder()
    model = Model(arguments.model, recorder)
    rng = np.random.default_rng(3)
    prompts = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in CHAT]
    prompts = [prompt for pair in zip(prompts[::2], TEXT, prompts[1::2], strict=True) for prompt in pair]
    batches: list[list[npt.NDArray[np.uint8]]] = []
    for prompt in prompts:
        model.forget()
        tokens = model.tokens(prompt)
        for _ in range(arguments.tokens + 1):
            logits = model.decode(tokens)
            batches.append(recorder.take())
            weights = np.exp((logits - logits.max()) / 0.7)
            tokens = [int(rng.choice(len(weights), p=weights / weights.sum()))]
            if llama_cpp.llama_vocab_is_eog(model.vocab, tokens[0]):
                break
    ids = np.concatenate([layer for batch in batches for layer in batch])
    n_layers, n_experts = len(batches[0]), ids.shape[1]
    np.savez_compressed(
        arguments.target,
        shape=np.array([n_layers, n_experts, recorder.n_used]),
        n_tokens=np.array([[len(layer) for layer in batch] for batch in batches], np.uint16),
        ids=ids,
    )
    n_tokens = sum(len(batch[0]) for batch in batches)
    print(f"{len(prompts)} prompts, {n_tokens} tokens, {arguments.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
