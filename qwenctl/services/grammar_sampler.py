"""One request's grammar in llama.cpp: which tokens may come next, asked so that nothing takes for ever.

llama.cpp throws across ctypes, which ends the process, when a grammar is made to accept a token it does not allow: who
accepts has asked before. A grammar that leaves many readings of the same text open gets slower with each token, and no
call into llama.cpp can be ended early: so large questions are asked in parts, with a look at the clock in between.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.grammar_check import check_grammar
from qwenctl.services.native_log import native_log
from qwenctl.services.vocabulary import Vocabulary

# llama_token_data
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_MOST_S = 5.0  # of CPU time for one token
_FIRST_PART_TOKENS = 16  # asked about at once; twice as many each time while that is quick
_QUICK_S = 0.05


class GrammarSampler:
    """A grammar and how far a text has come in it.

    Args:
        vocabulary: of the model.
        grammar: GBNF with a rule called root.

    Raises:
        InvalidRequest: the grammar is refused, by us or by llama.cpp.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        check_grammar(grammar)
        log = native_log()
        n_lines = log.n_lines
        handle = llama_cpp.llama_sampler_init_grammar(vocabulary.handle, grammar.encode("utf-8", "replace"), b"root")
        if not handle:
            reasons = [line.text for line in log.lines if line.number >= n_lines and line.text.strip()]
            reason = reasons[0].removeprefix("parse: ").strip() if reasons else "no reason given"
            raise InvalidRequest(f"llama.cpp refuses the grammar: {reason}", "GBNF, with a rule called root")
        self._handle = handle
        self._single = np.zeros(1, CANDIDATE)
        self._begin_s = 0.0

    def begin(self) -> None:
        """The next token's time begins."""
        self._begin_s = time.thread_time()

    def allows(self, token: int) -> bool:
        """Return whether `token` may come next."""
        self._single["id"], self._single["logit"] = token, 1.0
        llama_cpp.llama_sampler_apply(self._handle, ctypes.byref(candidate_array(self._single)))
        return bool(self._single["logit"][0] != -np.inf)

    def hold(self, candidates: npt.NDArray[np.void]) -> None:
        """Set the logits of those `candidates` that may not come next to -inf.

        Raises:
            GenerationFailed: that takes too long.
        """
        begin, n_tokens = 0, _FIRST_PART_TOKENS
        while begin < len(candidates):
            part = candidates[begin : begin + n_tokens]
            llama_cpp.llama_sampler_apply(self._handle, ctypes.byref(candidate_array(part)))
            begin += n_tokens
            if self._look_at_the_clock() < _QUICK_S:
                n_tokens *= 2

    def accept(self, token: int) -> None:
        """`token`, which is allowed, comes next.

        Raises:
            GenerationFailed: all that was asked since `begin` took too long.
        """
        llama_cpp.llama_sampler_accept(self._handle, token)
        self._look_at_the_clock()

    def close(self) -> None:
        """Free the native sampler."""
        llama_cpp.llama_sampler_free(self._handle)

    def _look_at_the_clock(self) -> float:
        """Return the seconds since `begin`."""
        taken_s = time.thread_time() - self._begin_s
        if taken_s > _MOST_S:
            raise GenerationFailed(
                f"the grammar took {taken_s:.1f} s for one token",
                "leave fewer optional parts next to each other, and fewer ways to read the same text",
            )
        return taken_s


def candidate_array(candidates: npt.NDArray[np.void]) -> Any:
    """Return a llama_token_data_array over `candidates`, in the order they have; it does not keep them alive."""
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
