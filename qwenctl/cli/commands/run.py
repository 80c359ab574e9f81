"""`qwenctl run`: one prompt, one answer."""

from __future__ import annotations

from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.configured_options import configurable
from qwenctl.cli.engine_flags import engine_flags, prompt_cache_option
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import read_prompt, tell_apart, text_or_file
from qwenctl.cli.reply_printer import ReplyPrinter
from qwenctl.cli.reply_stats import finish_note, mode_name, sampling_values, stats_lines, stats_values
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.core import FinishReason, Message, ModelInfo
from qwenctl.errors import GenerationFailed
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import PreparedPrompt
from qwenctl.services.reply import ReplyDone
from qwenctl.settings import Settings


@click.command(
    "run",
    cls=Command,
    examples=[
        'qwenctl run "Why is the sky blue?"',
        'qwenctl run qwen3-30b "Why is the sky blue?" --no-think',
        'git diff | qwenctl run qwen3-30b "Write a commit message for this" > message.txt',
        "qwenctl run model.gguf - < prompt.txt",
        'qwenctl run "List three rivers" --json | jq -r .answer',
    ],
)
@configurable
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("--system", metavar="TEXT", help="System prompt; @FILE reads it from a file.")
@reply_options
@engine_flags
@prompt_cache_option
@click.option("--hide-reasoning", is_flag=True, help="Do not show what the model thinks; it still thinks.")
@click.option("--stats", is_flag=True, help="Afterwards, say what was generated how fast, on standard error.")
@output_options
def command(
    *,
    words: tuple[str, ...],
    system: str | None,
    reply: ReplyOptions,
    engine: EngineOptions,
    hide_reasoning: bool,
    stats: bool,
    output: Output,
    settings: Settings,
) -> None:
    """Answer one prompt.

    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo. A single word that is neither a GGUF file nor such a name is the PROMPT.

    Text that is piped in is the prompt, or stands before the PROMPT, a blank line between them; "-" stands for it. Two
    questions about the same text then begin alike, and the second one is answered sooner.

    The answer alone goes to standard output, as it is generated. What the model thinks goes to standard error.
    """
    asked = tell_apart(words, settings)
    messages = _messages(text_or_file(system), read_prompt(asked.prompt, output.warning))
    with open_model(asked.model, engine, settings, output) as chat_model:
        prepared = chat_model.prepare(messages, reply.chat_options())
        for note in prepared.notes:
            output.warning(note)
        printer = ReplyPrinter(output, show_reasoning=not (hide_reasoning or output.quiet or output.json_mode))
        done = printer.print(chat_model.reply(prepared))
        info, offload = chat_model.engine.info, chat_model.engine.offload_stats()
    if output.json_mode:
        output.data(_json_answer(info, prepared, done) | {"offload": offload})
    if done.reason is FinishReason.ERROR:
        raise GenerationFailed(done.error or "the model stopped with an error")
    if ending := finish_note(done, prepared.request.max_tokens, reply.max_tokens, info.n_ctx):
        output.note(ending)
    if stats:
        mode = mode_name(prepared.thinking)
        for line in stats_lines(info, mode, prepared.sampling, done.usage, done.timing, offload=offload):
            output.report(line)


def _messages(system: str | None, prompt: str) -> list[Message]:
    return [*([Message("system", system)] if system else []), Message("user", prompt)]


def _json_answer(info: ModelInfo, prepared: PreparedPrompt, done: ReplyDone) -> dict[str, Any]:
    return {
        "model": info.name,
        "answer": done.answer,
        "reasoning": done.reasoning,
        "finish_reason": done.reason.value,
        "error": done.error,
        "thinking": prepared.thinking,
        "truncated": prepared.truncated is not None,
        "n_ctx": info.n_ctx,
        "n_context_tokens": done.usage.n_prompt_tokens + done.usage.n_generated_tokens,
        **stats_values(done.usage, done.timing),
        "sampling": sampling_values(prepared.sampling, done.timing),
    }
