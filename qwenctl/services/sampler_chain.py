"""How one sequence's next token is chosen from its logits: llama.cpp's samplers, and the shortest way to use them.

The order is llama.cpp's default (common/sampling.cpp): suppressed tokens and biases, penalties, top-k, top-p, min-p,
temperature, then a draw; temperature 0 takes the most probable token. The penalties see the prompt's tokens too, as
there.

    greedy                   argmax over the logits in place
    top-k first              the k most probable tokens are found here (batch_logits.py), the chain gets these alone
    no grammar               llama_sampler_sample: one native call, which makes a list of the vocabulary and sorts it
    grammar                  sample without it; is the token allowed? if not, hold the best tokens to the grammar and
                             sample again; only if those are too few, the whole vocabulary. Checking one token takes
                             microseconds, the vocabulary of a large model tens of milliseconds.
                             Tokens that are none of the answer's (thinking) can be exempt: the grammar never sees them

Nothing is accepted by a grammar unchecked (grammar_sampler.py says why). Logits that are not finite make llama.cpp's
draw meaningless: they are an error here.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from qwenctl.core import SamplingParams, TokenBias
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.batch_logits import Row, TokenLogits, check_highest
from qwenctl.services.grammar_sampler import CANDIDATE, GrammarSampler, candidate_array
from qwenctl.services.vocabulary import Vocabulary

_BEST_HELD = 512  # tokens that are held to a grammar before the whole vocabulary is
_NEVER = -100.0  # a bias that low forbids its token, as in OpenAI's API


class SamplerChain:
    """The sampler of one request.

    Args:
        vocabulary: of the model that computes the logits.
        params: the user's wishes.
        prompt: what the penalties look back on first.
        n_ctx: the length that `penalty_last_n` -1 stands for.
        biases: added to logits; -100 and below forbids a token.

    Raises:
        InvalidRequest: the grammar is refused, by us or by llama.cpp; or a bias is for no token, or no number.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        params: SamplingParams,
        prompt: Sequence[int],
        n_ctx: int,
        biases: Sequence[TokenBias] = (),
    ) -> None:
        self.seed = secrets.randbelow(0xFFFF_FFFF) if params.seed is None else params.seed
        self._n_vocab = vocabulary.n_tokens
        self._handles = ExitStack()
        self._candidates: npt.NDArray[np.void] | None = None
        self._best: npt.NDArray[np.void] | None = None  # as many candidates as top-k leaves
        self._array: Any = None  # over them
        self._grammar = GrammarSampler(vocabulary, params.grammar) if params.grammar is not None else None
        if self._grammar is not None:
            self._handles.callback(self._grammar.close)
        self._n_looked_at: int | None = None  # best tokens among which the chain finds its own; None: it may want all
        self._first_top_k: int | None = None  # the chain begins with it: more candidates change nothing
        self._chain = self._open_chain(params, prompt, n_ctx, _all_biases(vocabulary, biases))

    @property
    def has_grammar(self) -> bool:
        """Whether tokens are held to a grammar."""
        return self._grammar is not None

    def sample(self, logits: TokenLogits, exempt: Callable[[int], bool] | None = None) -> int:
        """Return the next token, and remember it.

        Args:
            logits: of the token before it.
            exempt: tells of a token whether the grammar lets it pass without taking notice; None: it never does.

        Raises:
            GenerationFailed: the logits are not finite, or the grammar allows no token.
        """
        if self._grammar is None:
            return self.sample_freely(logits)
        return self._sample_with_grammar(self._grammar, logits, exempt)

    def sample_freely(self, logits: TokenLogits) -> int:
        """Return the next token, and remember it, as if there were no grammar; raises what `sample` raises."""
        if (token := self._of_the_best(logits)) is not None:
            return token
        logits.check()
        return int(llama_cpp.llama_sampler_sample(self._chain, logits.batch.context, logits.index))

    def sample_other(self, logits: TokenLogits, forbidden: Collection[int]) -> int:
        """Return the next token, which is none of `forbidden`, as if there were no grammar; raises as `sample`."""
        values = logits.values.copy()
        values[list(forbidden)] = -math.inf
        check_highest(float(values.max()))
        token, _ = self._apply(self._all_candidates(values))
        self.remember([token])
        return token

    def remember(self, tokens: Sequence[int]) -> None:
        """`tokens` came without having been sampled: only the penalties see them."""
        if self._chain is not None:
            for token in tokens:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the native samplers."""
        self._handles.close()

    def _of_the_best(self, logits: TokenLogits) -> int | None:
        """Return what the chain would make of all tokens, from the few that matter; None: it may be any."""
        if self._chain is None:
            return logits.best()
        if self._first_top_k is not None and (top := logits.top(self._first_top_k)):
            return self._draw(*top)
        return None

    def _draw(self, tokens: npt.NDArray[np.intp], logits: npt.NDArray[np.float32]) -> int:
        """Return what the chain makes of the most probable tokens, best first: what it would make of all."""
        if self._best is None:
            self._best = np.zeros(len(tokens), CANDIDATE)
            self._array = candidate_array(self._best)
        candidates, array = self._best, self._array
        candidates["id"], candidates["logit"] = tokens, logits
        array.size, array.selected, array.sorted = len(tokens), -1, True
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(candidates["id"][array.selected])

    def _sample_with_grammar(
        self, grammar: GrammarSampler, logits: TokenLogits, exempt: Callable[[int], bool] | None
    ) -> int:
        if (token := self._of_the_best(logits)) is None:
            logits.check()
            token, _ = self._apply(self._all_candidates(logits.values))
        if exempt and exempt(token):
            self.remember([token])
            return token
        grammar.begin()
        if not grammar.allows(token):
            token, logit = self._apply(self._allowed_candidates(grammar, logits.values))
            if logit == -math.inf or not grammar.allows(token):
                raise GenerationFailed(
                    "the grammar allows no token of this model here",
                    "make sure that every branch of the grammar can be completed",
                )
        grammar.accept(token)
        self.remember([token])
        return token

    def _allowed_candidates(self, grammar: GrammarSampler, logits: Row) -> npt.NDArray[np.void]:
        """Return the tokens that the chain is to choose from: all that `grammar` allows, or as many as it looks at."""
        if self._n_looked_at is not None and self._n_vocab > _BEST_HELD:
            best = np.argpartition(logits, -_BEST_HELD)[-_BEST_HELD:]
            candidates = np.zeros(_BEST_HELD, CANDIDATE)
            candidates["id"], candidates["logit"] = best, logits[best]
            grammar.hold(candidates)
            allowed: npt.NDArray[np.void] = candidates[candidates["logit"] != -np.inf]
            if len(allowed) >= self._n_looked_at:
                return allowed
        candidates = self._all_candidates(logits)
        grammar.hold(candidates)
        return candidates

    def _all_candidates(self, logits: Row) -> npt.NDArray[np.void]:
        if self._candidates is None:
            self._candidates = np.zeros(self._n_vocab, CANDIDATE)
        candidates = self._candidates
        candidates["id"] = np.arange(self._n_vocab, dtype=np.int32)  # sorting changes the order
        candidates["logit"] = logits
        return candidates

    def _apply(self, candidates: npt.NDArray[np.void]) -> tuple[int, float]:
        """Return the token that the chain selects, and its logit after it."""
        if self._chain is None:
            best = candidates[candidates["logit"].argmax()]
            return int(best["id"]), float(best["logit"])
        array = candidate_array(candidates)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        selected = array.data[array.selected]
        return int(selected.id), float(selected.logit)

    def _open_chain(
        self, params: SamplingParams, prompt: Sequence[int], n_ctx: int, biases: Sequence[tuple[int, float]]
    ) -> Any:
        """Return the chain, or None where an argmax does."""
        last_n = n_ctx if params.penalty_last_n < 0 else min(params.penalty_last_n, n_ctx)
        penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
        penalises = last_n > 0 and penalties != (1.0, 0.0, 0.0)
        if params.temperature == 0 and not penalises and not biases:
            self._n_looked_at = 1
            return None
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._handles.callback(llama_cpp.llama_sampler_free, chain)
        members = []
        if biases:
            native = (llama_cpp.llama_logit_bias * len(biases))(*biases)
            members.append(llama_cpp.llama_sampler_init_logit_bias(self._n_vocab, len(biases), native))
        if penalises:
            members.append(llama_cpp.llama_sampler_init_penalties(self._n_vocab, last_n, *penalties))
        for sampler in (*members, *_drawing(params, self.seed)):
            llama_cpp.llama_sampler_chain_add(chain, sampler)
        if not biases and not penalises and params.top_k > 0:
            self._first_top_k = self._n_looked_at = params.top_k
        if penalises:
            for token in prompt[-last_n:]:
                llama_cpp.llama_sampler_accept(chain, token)
        return chain


def _drawing(params: SamplingParams, seed: int) -> list[Any]:
    if params.temperature == 0:
        return [llama_cpp.llama_sampler_init_greedy()]
    samplers = []
    if params.top_k > 0:
        samplers.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
    if params.top_p < 1:
        samplers.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0:
        samplers.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
    return [
        *samplers,
        llama_cpp.llama_sampler_init_temp(params.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ]


def _all_biases(vocabulary: Vocabulary, wanted: Sequence[TokenBias]) -> list[tuple[int, float]]:
    """Return the user's biases, one a token, and those of the model's file, which come first."""
    biases: dict[int, float] = {}
    for one in wanted:
        if not 0 <= one.token < vocabulary.n_tokens:
            raise InvalidRequest(f"there is a bias for token {one.token}; the model has {vocabulary.n_tokens:,} tokens")
        if not math.isfinite(one.bias):
            raise InvalidRequest(f"the bias for token {one.token} is {one.bias}; -100 forbids a token")
        biases[one.token] = one.bias if one.bias > _NEVER else -math.inf
    biases |= dict.fromkeys(_suppressed_tokens(vocabulary), -math.inf)
    if sum(bias == -math.inf for bias in biases.values()) >= vocabulary.n_tokens:
        raise InvalidRequest("the biases forbid every token")
    return list(biases.items())


def _suppressed_tokens(vocabulary: Vocabulary) -> list[int]:
    """Return the tokens that the model's file wants never to be generated (tokenizer.ggml.suppress_tokens)."""
    n_tokens = ctypes.c_int32(0)
    pointer = llama_cpp.llama_vocab_get_suppress_tokens(vocabulary.handle, ctypes.byref(n_tokens))
    return [int(pointer[index]) for index in range(n_tokens.value)]
