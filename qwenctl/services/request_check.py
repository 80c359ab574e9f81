"""What an engine refuses before it takes a request. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.core import GenerationRequest
from qwenctl.errors import InvalidRequest, PromptTooLong


def check_request(request: GenerationRequest, n_vocab: int, n_ctx: int) -> None:
    """Refuse what no model of `n_vocab` tokens and a context of `n_ctx` could answer.

    Raises:
        PromptTooLong: the prompt leaves no room for an answer.
        InvalidRequest: an empty prompt, a token that the model does not have, max_tokens below 1, or a number of
            logprobs that there are not.
    """
    _check_tokens(request.prompt_tokens, n_vocab, n_ctx - 1, n_ctx)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {request.max_tokens}")
    if request.n_logprobs is not None and not 0 <= request.n_logprobs <= n_vocab:
        raise InvalidRequest(f"n_logprobs must lie between 0 and {n_vocab:,}, not {request.n_logprobs}")


def check_lists(token_lists: Sequence[Sequence[int]], n_vocab: int, n_ctx: int) -> None:
    """Refuse lists of tokens that no vector can be computed of.

    Raises:
        PromptTooLong: a list does not fit into the context.
        InvalidRequest: an empty list, or a token that the model does not have.
    """
    for tokens in token_lists:
        _check_tokens(tokens, n_vocab, n_ctx, n_ctx)


def _check_tokens(tokens: Sequence[int], n_vocab: int, n_most: int, n_ctx: int) -> None:
    if len(tokens) > n_most:
        raise PromptTooLong(len(tokens), n_ctx)
    if not tokens:
        raise InvalidRequest("the prompt is empty: there is nothing to go on from")
    if not 0 <= min(tokens) <= max(tokens) < n_vocab:
        raise InvalidRequest(f"the prompt holds a token that the model does not have ({n_vocab:,} tokens)")
