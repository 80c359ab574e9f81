"""llama.cpp's own judgement of grammars, in a child process: which texts they accept, and what they let be written.

This file run as a script is the child: it reads a job from standard input, and nothing but a vocabulary is loaded.
"""

from __future__ import annotations

import ctypes
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """A grammar and what to do with it."""

    grammar: str
    texts: Sequence[str] = ()  # to be judged
    n_written: int = 0  # texts to be written by drawing tokens at random
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What llama.cpp says."""

    accepted: list[bool]  # for each text, whether the grammar matches the whole of it
    written: list[str]  # those texts that came to an end


def judge(gguf: Path, jobs: Sequence[Job]) -> list[Verdict]:
    """Return a verdict for each job, all from one child."""
    task = json.dumps({"path": str(gguf), "jobs": [asdict(job) for job in jobs]})
    run = subprocess.run(
        [sys.executable, __file__], input=task, capture_output=True, text=True, check=False, timeout=300
    )
    if run.returncode:
        raise AssertionError(f"the child exited {run.returncode}: {run.stderr[-2000:]}")
    return [Verdict(**verdict) for verdict in json.loads(run.stdout)]


def accepted(gguf: Path, grammar: str, texts: Sequence[str]) -> list[bool]:
    """Return for each text whether the grammar matches the whole of it."""
    return judge(gguf, [Job(grammar, texts)])[0].accepted


def written(gguf: Path, grammar: str, n: int) -> list[str]:
    """Return texts that tokens drawn at random wrote under the grammar, those that came to an end among `n`."""
    return judge(gguf, [Job(grammar, (), n)])[0].written


class _Judge:
    def __init__(self, path: str) -> None:
        import llama_cpp as lib
        import numpy as np

        self._lib, self._np = lib, np
        self._log = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self._vocab = lib.llama_model_get_vocab(lib.llama_model_load_from_file(path.encode(), params))
        self._n_tokens = lib.llama_vocab_n_tokens(self._vocab)
        self._ends = [t for t in range(self._n_tokens) if lib.llama_vocab_is_eog(self._vocab, t)]
        self._grammar = b""
        self._kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def verdict(self, job: dict[str, Any]) -> dict[str, Any]:
        self._grammar = job["grammar"].encode()
        if not self._open():
            raise SystemExit(f"llama.cpp refuses the grammar:\n{job['grammar']}")
        rng = random.Random(job["seed"])
        texts = [self.write(rng) for _ in range(job["n_written"])]
        accepted = [self.accepts(text) for text in job["texts"]]
        return {"accepted": accepted, "written": [text for text in texts if text is not None]}

    def accepts(self, text: str) -> bool:
        sampler = self._open()
        for token in self._tokens(text):
            if not self._allowed(sampler, [token])[0]:
                return False
            self._lib.llama_sampler_accept(sampler, token)
        return bool(self._allowed(sampler, self._ends).any())

    def write(self, rng: random.Random) -> str | None:
        sampler, text = self._open(), b""
        everything = list(range(self._n_tokens))
        closing = {t for t in everything if set(self._piece(t)) & set(b'"}],')}
        for _ in range(200):
            allowed = [t for t, ok in zip(everything, self._allowed(sampler, everything), strict=True) if ok]
            if not allowed:
                raise SystemExit(f"no token is allowed after {text!r}")
            if set(allowed) & set(self._ends):
                return text.decode()
            closers = [t for t in allowed if t in closing]
            token = rng.choice(closers if closers and rng.random() < 0.4 else allowed)
            self._lib.llama_sampler_accept(sampler, token)
            text += self._piece(token)
        return None

    def _open(self) -> Any:
        return self._lib.llama_sampler_init_grammar(self._vocab, self._grammar, b"root")

    def _allowed(self, sampler: Any, tokens: Sequence[int]) -> Any:
        np, lib = self._np, self._lib
        candidates = np.zeros(len(tokens), self._kind)
        candidates["id"], candidates["logit"] = tokens, 1.0
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        return candidates["logit"] != -np.inf

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (self._lib.llama_token * (len(data) + 8))()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, len(data) + 8, False, True)
        return list(tokens[:count])

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        length = self._lib.llama_token_to_piece(self._vocab, token, room, 256, 0, True)
        return room.raw[:length]


def _main() -> None:
    task = json.load(sys.stdin)
    judge_of_all = _Judge(task["path"])
    json.dump([judge_of_all.verdict(job) for job in task["jobs"]], sys.stdout)


if __name__ == "__main__":
    _main()
