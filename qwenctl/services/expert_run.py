"""Let a model answer prompts for the sake of its routing: which prompts, and one after the other.

Where the routing is written to is the opened model's affair (`EngineOptions.trace_file`); the answers are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenctl.core import FinishReason, Message
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.batch_input import BatchInput, InputLine
from qwenctl.services.batch_request import BadLine, parse_line
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import ReplyDone
from qwenctl.services.sample_prompts import SAMPLE_PROMPTS


@dataclass(frozen=True, slots=True)
class TracedPrompt:
    """One conversation to be answered, with options of its own."""

    messages: tuple[Message, ...]
    options: ChatOptions


def sample_prompts(options: ChatOptions) -> tuple[TracedPrompt, ...]:
    """Return the prompts that come with the program."""
    return tuple(TracedPrompt((Message("user", text),), options) for text in SAMPLE_PROMPTS)


def read_prompts(path: Path, options: ChatOptions) -> tuple[TracedPrompt, ...]:
    """Read a prompt from each line that is not blank: text, or JSON as `qwenctl batch` takes it if the first line is.

    Args:
        path: a regular file.
        options: what holds where a line does not say otherwise.

    Raises:
        InvalidRequest: unreadable, no prompts, or a line that makes no sense; the message names it.
    """
    prompts: list[TracedPrompt] = []
    is_json = False
    for line in BatchInput(path).lines():
        if not prompts:
            is_json = (line.data or b"").lstrip().startswith(b"{")
        prompts.append(_from_json(line, path, options) if is_json else _from_text(line, path, options))
    if not prompts:
        raise InvalidRequest(f"{path} holds no prompts", "write one a line")
    return tuple(prompts)


def run_prompts(model: ChatModel, prompts: Sequence[TracedPrompt], on_done: Callable[[int, int], None]) -> None:
    """Answer `prompts` one after the other.

    Args:
        model: opened for one sequence.
        prompts: see `read_prompts`.
        on_done: is told after each how many are done, and the tokens computed for it: prompt and answer.

    Raises:
        PromptTooLong, TemplateFailed, InvalidRequest: see `ChatModel.prepare`.
        GenerationFailed: llama.cpp failed.
    """
    for n_done, prompt in enumerate(prompts, 1):
        n_tokens = 0
        for event in model.stream(prompt.messages, prompt.options):
            if isinstance(event, ReplyDone):
                if event.reason is FinishReason.ERROR:
                    raise GenerationFailed(event.error or "the model stopped with an error")
                n_tokens = event.usage.n_prompt_tokens + event.usage.n_generated_tokens
        on_done(n_done, n_tokens)


def _from_json(line: InputLine, path: Path, options: ChatOptions) -> TracedPrompt:
    request = parse_line(line)
    if isinstance(request, BadLine):
        raise InvalidRequest(f"line {line.number} of {path}: {request.message}")
    if not isinstance(request.parsed, ChatBody):
        raise InvalidRequest(f"line {line.number} of {path} is no chat: {request.url} has no messages")
    return TracedPrompt(request.parsed.messages, request.parsed.options(options))


def _from_text(line: InputLine, path: Path, options: ChatOptions) -> TracedPrompt:
    if line.data is None:
        raise InvalidRequest(f"line {line.number} of {path} is too long")
    try:
        return TracedPrompt((Message("user", line.data.decode()),), options)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"line {line.number} of {path} is not UTF-8: byte {error.start + 1}") from error
