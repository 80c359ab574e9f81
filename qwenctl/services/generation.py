"""From messages to a reply: template, thinking, sampling and engine put together in one place, for every command.

    prepare    messages → (cut) → prompt text → tokens, sampling, limits        PreparedPrompt
    reply      PreparedPrompt → engine → reasoning and answer as they come      Reply

A model without a chat template completes the plain text of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from qwenctl.core import GenerationEvent, GenerationRequest, Message, ModelInfo, TokenBias
from qwenctl.errors import GenerationFailed, InvalidRequest, PromptTooLong
from qwenctl.services.chat_template import ChatTemplate, RenderCall, TemplateCapabilities, ends_inside_thinking
from qwenctl.services.embedder import Embeddings
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.overflow.middle_cut import cut_middle
from qwenctl.services.overflow.policy import MiddleCut, OverflowPolicy, Shortening, Summary, fits, room_for_prompt
from qwenctl.services.reply import ReplyAssembler, ReplyEvent
from qwenctl.services.reply_form import ReplyForm, held_to_form
from qwenctl.services.sampling_defaults import SamplingChoice, choose_sampling, sampling_family, usual_max_tokens
from qwenctl.services.template_process import WaitingChild
from qwenctl.services.thinking import without_earlier_reasoning
from qwenctl.services.thinking_mode import ThinkingMode, thinking_mode
from qwenctl.services.tools.tool_choice import ToolChoice


class TextEngine(Protocol):
    """What this layer needs of services/engine.py."""

    @property
    def info(self) -> ModelInfo:
        """The model."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""

    @property
    def failure(self) -> GenerationFailed | None:
        """Why nothing can be generated any more, whatever the request; None: it can."""

    def offload_stats(self) -> dict[str, Any] | None:
        """Return placement and counters of the expert scheduler; None: nothing is offloaded."""

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool = False) -> tuple[int, ...]:
        """Return the tokens of `text`; `add_special`: with the model's begin token, if it wants one."""

    def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
        """Return a normalised vector of each list of tokens, f32 (n_lists, n_embd)."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue `request`."""

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        """Compute once for all requests that can run; `meanwhile` may get events early."""

    def cancel(self, request_id: str) -> None:
        """End a request early; it still gets its last event."""

    def end_thinking(self, request_id: str) -> None:
        """Close a request's think block now: the answer follows."""

    def generate(self, request: GenerationRequest) -> Iterator[GenerationEvent]:
        """Submit `request` and step until it is finished; raises GenerationFailed where a step reports an error."""

    def occupy(self, loop: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
        """Run `loop`, which steps and which `end` ends; return what waits for that."""

    def rest(self) -> None:
        """Do what was put off until there is nothing to compute."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a user may say about a reply. None and missing keys: the model's own default."""

    thinking: bool | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)  # fields of SamplingParams
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    overflow: OverflowPolicy = "refuse"  # what becomes of a prompt that is too long; overflow/condense.py summarises
    tools: tuple[Mapping[str, Any], ...] = ()
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    think_budget: int | None = None  # tokens of thinking after which it is ended and the answer begins
    n_logprobs: int | None = None  # as in GenerationRequest, and so are the next two
    logit_bias: tuple[TokenBias, ...] = ()
    reports_progress: bool = False
    answer_schema: Any | None = None  # JSON schema that the answer must satisfy; `ANY_OBJECT` for any JSON object
    tool_choice: ToolChoice = field(default_factory=ToolChoice)


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A request for the engine, and what was decided on the way."""

    request: GenerationRequest
    text: str  # as the template rendered it
    mode: ThinkingMode
    starts_inside: bool  # `text` ends inside a think block
    sampling: SamplingChoice
    truncated: Shortening | None
    notes: tuple[str, ...]  # one line each, for the user: what was ignored, cut or advised against

    @property
    def thinking(self) -> bool:
        """Whether the model is expected to think."""
        return self.mode.thinking

    def condensed(self, summary: Summary | None) -> PreparedPrompt:
        """Return it with what was summarised before it was prepared."""
        return replace(self, truncated=summary, notes=(*self.notes, summary.sentence)) if summary else self


class Reply:
    """A reply in the making: iterate over its events. Closed, interrupted or failed, it keeps what came so far.

    Raises:
        GenerationFailed: while iterating.
    """

    def __init__(self, engine: TextEngine, prepared: PreparedPrompt) -> None:
        self.prepared = prepared
        self._engine = engine
        self._assembler = ReplyAssembler(starts_inside=prepared.starts_inside)
        self._events = self._run()

    def __iter__(self) -> Iterator[ReplyEvent]:
        return self._events

    def __next__(self) -> ReplyEvent:
        return next(self._events)

    @property
    def reasoning(self) -> str | None:
        """The reasoning so far."""
        return self._assembler.reasoning

    @property
    def answer(self) -> str:
        """The answer so far."""
        return self._assembler.answer

    def cancel(self) -> None:
        """Ask the engine to stop: the iteration ends soon, with a `ReplyDone` whose reason says so."""
        self._engine.cancel(self.prepared.request.request_id)

    def end_thinking(self) -> None:
        """Ask the engine to end the thinking now: the answer follows. From any thread; without effect after it."""
        self._engine.end_thinking(self.prepared.request.request_id)

    def close(self) -> None:
        """Stop at once, without a `ReplyDone`."""
        self._events.close()

    def _run(self) -> Generator[ReplyEvent, None, None]:
        events = self._engine.generate(self.prepared.request)
        try:
            for event in events:
                yield from self._assembler.take(event)
        finally:
            if isinstance(events, Generator):
                events.close()  # now, not when it is collected: the engine ends the request then


class ChatModel:
    """An opened model that is talked to in messages.

    Args:
        engine: the opened model. Stays the caller's: `close` ends the template's process only.
        template: another chat template than the model's own.
        waiting: a child for the model's template that was started early.
    """

    def __init__(
        self, engine: TextEngine, template: ChatTemplate | None = None, waiting: WaitingChild | None = None
    ) -> None:
        self.engine = engine
        info = engine.info
        if template is None and info.chat_template:
            bos, eos = info.bos_token, info.eos_token
            template = ChatTemplate(info.chat_template, bos_token=bos, eos_token=eos, waiting=waiting)
        self.template = template
        self._ids = count(1)

    @property
    def capabilities(self) -> TemplateCapabilities:
        """What the chat template can do; nothing without one.

        Raises:
            TemplateFailed: it cannot even render a greeting.
        """
        return self.template.capabilities if self.template else TemplateCapabilities()

    def prepare(
        self, messages: Sequence[Message], options: ChatOptions | None = None, *, request_id: str | None = None
    ) -> PreparedPrompt:
        """Return the request for the next reply.

        Raises:
            InvalidRequest: no messages, text that is no Unicode, or options out of range.
            TemplateFailed: the chat template could not render the messages.
            PromptTooLong: more tokens than the context holds, and it was not to be cut, or cutting did not help.
        """
        options = options or ChatOptions()
        if not messages:
            raise InvalidRequest("there is no message to answer")
        info, can = self.engine.info, self.capabilities
        form = ReplyForm(options.answer_schema, options.tools, options.tool_choice, can.tool_format)
        wishes, form_notes = held_to_form(options.sampling, form)
        prompt = _Prompt(self, messages, options, has_grammar=wishes.get("grammar") is not None)
        mode = prompt.mode
        sampling = choose_sampling(
            sampling_family(info.architecture, thinks=can.thinking != "none", xml_calls=can.tool_format == "xml"),
            thinking=mode.thinking,
            usual_mode=mode.thinking == can.thinks_by_default,
            from_file=info.sampling_defaults,
            options=wishes,
        )
        text, tokens, cut = prompt.fitted(self.engine.info.n_ctx)
        room = self.engine.info.n_ctx - len(tokens)
        wanted = options.max_tokens or usual_max_tokens(thinking=mode.thinking, think_budget=mode.budget)
        request = GenerationRequest(
            request_id or f"reply-{next(self._ids)}",
            tokens,
            sampling.params,
            min(wanted, room),
            options.stop,
            mode.block(text) if self.template else None,
            options.n_logprobs,
            options.logit_bias,
            options.reports_progress,
        )
        notes = (*prompt.notes, *form_notes, *sampling.notes, *([cut.sentence] if cut else []))
        starts_inside = self.template is not None and ends_inside_thinking(text)
        return PreparedPrompt(request, text, mode, starts_inside, sampling, cut, notes)

    def render_ahead(self, wanted: Sequence[tuple[Sequence[Message], ChatOptions]]) -> None:
        """Render the prompts of several calls of `prepare` that will come soon, which is quicker than one by one.

        Raises:
            TemplateFailed: as `capabilities`.
        """
        if self.template:
            prompts = [_Prompt(self, messages, options, has_grammar=False) for messages, options in wanted if messages]
            self.template.render_ahead([prompt.render_call for prompt in prompts])

    def n_prompt_tokens(self, messages: Sequence[Message], options: ChatOptions) -> int:
        """Return how long the prompt for `messages` would be, if nothing were cut; raises what `prepare` raises."""
        return _Prompt(self, messages, options, has_grammar=False).n_tokens

    def reply(self, prepared: PreparedPrompt) -> Reply:
        """Start generating. Nothing is computed before the first event is asked for."""
        return Reply(self.engine, prepared)

    def stream(self, messages: Sequence[Message], options: ChatOptions | None = None) -> Reply:
        """Prepare and start a reply; raises what `prepare` raises."""
        return self.reply(self.prepare(messages, options))

    def close(self) -> None:
        """End the template's process."""
        if self.template:
            self.template.close()


class _Prompt:
    """The messages of one request on their way to tokens."""

    def __init__(
        self, model: ChatModel, messages: Sequence[Message], options: ChatOptions, *, has_grammar: bool
    ) -> None:
        self._model = model
        self._options = options
        self._has_grammar = has_grammar
        self.mode = thinking_mode(model.capabilities, messages, options.thinking, options.think_budget)
        self.notes = self.mode.notes
        strips = model.template is None or model.capabilities.strips_reasoning
        self._messages: Sequence[Message] = without_earlier_reasoning(messages, template_strips=strips)
        if model.template is None:
            self.notes += ("the model has no chat template: it goes on with the text of the prompt as it is",)

    @property
    def render_call(self) -> RenderCall:
        """What the template is asked for."""
        options = self._options
        return RenderCall(self._messages, self.mode.switch, options.tools, options.template_variables)

    @property
    def n_tokens(self) -> int:
        """The length of the whole prompt."""
        return self._count(self._messages)

    def fitted(self, n_ctx: int) -> tuple[str, tuple[int, ...], MiddleCut | None]:
        """Return text and tokens, cut if need be and allowed."""
        text = self._render(self._messages)
        tokens = self._tokenize(text)
        n_tokens, max_tokens, cuts = len(tokens), self._options.max_tokens, self._options.overflow == "truncate-middle"
        if fits(n_tokens, n_ctx, max_tokens) or (n_tokens < n_ctx and not cuts):
            return text, tokens, None
        limit = room_for_prompt(n_ctx, max_tokens)
        result = cut_middle(self._messages, n_tokens, limit, self._count) if cuts else None
        if result is None:
            raise PromptTooLong(n_tokens, n_ctx)
        remaining, cut = result
        text = self._render(remaining)
        return text, self._tokenize(text), cut

    def _count(self, messages: Sequence[Message]) -> int:
        return len(self._tokenize(self._render(messages)))

    def _tokenize(self, text: str) -> tuple[int, ...]:
        """A template writes the begin token itself; plain text gets it from the tokenizer."""
        return self._model.engine.tokenize(text, parse_special=True, add_special=self._model.template is None)

    def _render(self, messages: Sequence[Message]) -> str:
        if self._model.template is None:
            return _check_text("\n\n".join(message.content for message in messages))
        text = self._model.template.render(
            messages,
            enable_thinking=self.mode.switch,
            tools=self._options.tools,
            variables=self._options.template_variables,
        )
        return _check_text(self.mode.opened(text, has_grammar=self._has_grammar))


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.start]
        raise InvalidRequest(f"half of a surrogate pair, which is no text, follows {near!r} in the prompt") from error
    return text
