"""From the prompt of a completion to a request for the engine: no template, no thinking."""

from __future__ import annotations

from qwenctl.core import GenerationRequest
from qwenctl.errors import PromptTooLong
from qwenctl.services.api.completion_body import DEFAULT_MAX_TOKENS, Prompt
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.sampling_defaults import choose_sampling


def completion_request(model: ChatModel, prompt: Prompt, options: ChatOptions, request_id: str) -> GenerationRequest:
    """Return the request for one text.

    Raises:
        InvalidRequest: options out of range.
        PromptTooLong: more tokens than the context holds.
    """
    info = model.engine.info
    tokens = model.engine.tokenize(prompt, add_special=True) if isinstance(prompt, str) else prompt
    if len(tokens) >= info.n_ctx:
        raise PromptTooLong(len(tokens), info.n_ctx)
    sampling = choose_sampling(
        info.architecture,
        thinking=False,
        usual_mode=not model.capabilities.thinks_by_default,
        from_file=info.sampling_defaults,
        options=options.sampling,
    )
    return GenerationRequest(
        request_id,
        tokens,
        sampling.params,
        min(options.max_tokens or DEFAULT_MAX_TOKENS, info.n_ctx - len(tokens)),
        options.stop,
        n_logprobs=options.n_logprobs,
        logit_bias=options.logit_bias,
    )
