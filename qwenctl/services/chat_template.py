"""From messages to the text of a prompt, through the Jinja template that a model file carries.

The template is data from a stranger: it is rendered in a child process (template_process.py). What it can do (thinking,
tools) is found by rendering small probes, never by the model's name. Knows nothing of tokens and engines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from qwenctl.core import Message
from qwenctl.errors import TemplateFailed
from qwenctl.services.template_process import TemplateLimits, TemplateProcess, WaitingChild
from qwenctl.services.thinking import OPEN_TAG
from qwenctl.services.tools.tool_call import OPEN_TAG as OPEN_CALL
from qwenctl.services.tools.tool_call import ToolCall, ToolFormat, calling_message

Thinking = Literal["none", "hybrid", "always"]

_HINT = "the template comes with the model file; another conversion of the model may carry a sound one"
_SENTENCES = {  # the worker's kinds of error
    "syntax": "the chat template has a syntax error in {message}",
    "refused": "the chat template refused the conversation: {message}",
    "undefined": "the chat template uses something undefined: {message}",
    "unsafe": "the chat template tried something that is not allowed: {message}",
    "memory": "the chat template needed more than {memory_mib} MiB of memory",
    "output": "the chat template wrote more than {output_chars} characters",
    "failed": "the chat template failed: {message}",
}


@dataclass(frozen=True, slots=True)
class TemplateCapabilities:
    """What rendering the probes showed."""

    thinking: Thinking = "none"  # hybrid: `enable_thinking` changes the prompt; always: every prompt ends with <think>
    thinks_by_default: bool = False  # when `enable_thinking` is not given
    tools: bool = False
    strips_reasoning: bool = True  # of earlier turns, by itself
    uses_tags: bool = False  # a think block stands between <think> and </think>
    tool_format: ToolFormat | None = None  # how it writes calls; None: it does not, or in a way that we do not read


@dataclass(frozen=True, slots=True)
class RenderCall:
    """What `ChatTemplate.render` is called with for a reply."""

    messages: Sequence[Message]
    enable_thinking: bool | None
    tools: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]


class ChatTemplate:
    """A chat template with its child process, which starts with the first rendering and ends with `close`.

    Args:
        source: Jinja source.
        bos_token, eos_token: how the vocabulary writes them; templates may put them into the prompt.
        waiting: a child that was started early.

    Raises:
        TemplateFailed: the source is longer than `limits.source_bytes`.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        limits: TemplateLimits | None = None,
        waiting: WaitingChild | None = None,
    ) -> None:
        self._limits = limits or TemplateLimits()
        n_bytes = len(source.encode("utf-8", "surrogatepass"))
        if n_bytes > self._limits.source_bytes:
            allowed = self._limits.source_bytes
            raise TemplateFailed(f"the chat template is {n_bytes} bytes long, more than {allowed}", _HINT)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._process = TemplateProcess(source, self._limits, waiting)
        self._capabilities: TemplateCapabilities | None = None
        self._ahead: dict[str, Mapping[str, str]] = {}  # context as JSON → result

    def render(
        self,
        messages: Sequence[Message],
        *,
        enable_thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for `messages`.

        `enable_thinking` None leaves the variable undefined, which is not the same as False for every template.
        `variables` are further ones, JSON values; they cannot replace those above.

        Raises:
            TemplateFailed: the template raised, is broken, or took more than its limits.
        """
        context = _with_switch(self._context(messages, tools, add_generation_prompt), enable_thinking, variables)
        ahead = self._ahead.pop(json.dumps(context), None) if self._ahead else None
        return self._text(ahead or self._process.render([context])[0])

    def render_ahead(self, calls: Sequence[RenderCall]) -> None:
        """Render for calls of `render` that will come soon, in one trip to the child: a trip costs more than a text.

        What fails here fails again, alone, when it is asked for. An earlier call's results are forgotten.
        """
        contexts = [
            _with_switch(self._context(call.messages, call.tools, True), call.enable_thinking, call.variables)
            for call in calls
        ]
        self._ahead = {}
        with suppress(TemplateFailed):
            results = self._process.render(contexts) if contexts else []
            self._ahead = {json.dumps(one): result for one, result in zip(contexts, results, strict=True)}

    @property
    def capabilities(self) -> TemplateCapabilities:
        """What the template can do. Rendered once, then remembered.

        Raises:
            TemplateFailed: not even a single user message can be rendered.
        """
        if self._capabilities is None:
            self._capabilities = self._probe()
        return self._capabilities

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _context(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool
    ) -> dict[str, Any]:
        return {
            "messages": [_as_template_sees_it(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._tokens,
        }

    def _text(self, result: Mapping[str, str]) -> str:
        if "text" in result:
            return result["text"]
        sentence = _SENTENCES[result["error"]].format(
            message=_one_line(result["message"]),
            memory_mib=self._limits.memory_bytes >> 20,
            output_chars=self._limits.output_chars,
        )
        raise TemplateFailed(sentence, _HINT)

    def _probe(self) -> TemplateCapabilities:
        plain = self._context([Message("user", "Hello")], None, True)
        history = [Message("user", "Hello"), Message("assistant", "Hi", reasoning=_MARK), Message("user", "And now?")]
        contexts = [
            plain,
            {**plain, "enable_thinking": True},
            {**plain, "enable_thinking": False},
            self._context([Message("user", "Hello")], [_PROBE_TOOL], True),
            self._context(history, None, True),
            self._context([Message("user", "Hello"), calling_message("", None, [_PROBE_CALL])], [_PROBE_TOOL], False),
        ]
        results = self._process.render(contexts)
        default = self._text(results[0])
        switched_on, switched_off, with_tools, with_history, with_call = (result.get("text") for result in results[1:])
        return TemplateCapabilities(
            thinking=_thinking(default, switched_on, switched_off),
            thinks_by_default=default == switched_on if switched_on != switched_off else ends_inside_thinking(default),
            tools=_MARK in (with_tools or ""),
            strips_reasoning=_MARK not in (with_history or ""),
            tool_format=_tool_format(with_call or ""),
            uses_tags=any(OPEN_TAG in (text or "") for text in (default, switched_on, switched_off)),
        )


def ends_inside_thinking(prompt: str) -> bool:
    """Whether the model goes on inside a think block that `prompt` has opened."""
    return prompt.rstrip().endswith(OPEN_TAG)


def _with_switch(
    context: Mapping[str, Any], enable_thinking: bool | None, variables: Mapping[str, Any] | None
) -> dict[str, Any]:
    switch = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    return {**(variables or {}), **switch, **context}


def _thinking(default: str, switched_on: str | None, switched_off: str | None) -> Thinking:
    if switched_on is not None and switched_off is not None and switched_on != switched_off:
        return "hybrid"
    return "always" if ends_inside_thinking(default) else "none"


def _tool_format(with_call: str) -> ToolFormat | None:
    """Return the form of the call in a rendered conversation."""
    if f"<function={_MARK}>" in with_call:
        return "xml"
    is_json = re.search(rf'{OPEN_CALL}\s*{{\s*"name":\s*"{_MARK}",\s*"arguments":\s*{{', with_call)
    return "hermes" if is_json else None


def _as_template_sees_it(message: Message) -> dict[str, Any]:
    reasoning = {} if message.reasoning is None else {"reasoning_content": message.reasoning}
    return {**message.extra, "role": message.role, "content": message.content, **reasoning}


def _one_line(text: str) -> str:
    """`text` without line breaks and terminal escapes, at most 300 characters."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    clean = re.sub(r" {2,}", " ", clean).strip()
    return clean if len(clean) <= 300 else clean[:299] + "…"


_MARK = "qwenctl_probe"
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": _MARK, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL = ToolCall(_MARK, {_MARK: "value"})
