"""`qwenctl run`: one prompt, one answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from qwenctl.cli.chat.plain_screen import PlainScreen
from qwenctl.cli.code_blocks import FirstCodeBlock, code_blocks
from qwenctl.cli.command import Command
from qwenctl.cli.condensing import condensing
from qwenctl.cli.configured_options import configurable
from qwenctl.cli.engine_flags import engine_flags, prompt_cache_option
from qwenctl.cli.file_option import file_option
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import attached_line, read_prompt, tell_apart, text_or_file
from qwenctl.cli.reply_printer import ReplyPrinter
from qwenctl.cli.reply_stats import finish_note, sampling_values, stats_lines, stats_values, thinking_note
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.cli.schema_options import told_of_schema, violation
from qwenctl.cli.template_options import FilledTemplate, template_options
from qwenctl.cli.tool_options import ToolOptions, chain_note, chain_values, terminal_is_there, tool_options
from qwenctl.core import FinishReason, Message, ModelInfo
from qwenctl.errors import GenerationFailed, QwenctlError
from qwenctl.services.attached_files import read_attachments
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import PreparedPrompt
from qwenctl.services.overflow.condense import Condenser
from qwenctl.services.reply import ReplyDone
from qwenctl.services.tools.tool_chain import begin_answer
from qwenctl.settings import Settings


@click.command(
    "run",
    cls=Command,
    examples=[
        'qwenctl run "Why is the sky blue?"',
        'qwenctl run qwen3-30b "Why is the sky blue?" --no-think',
        'git diff | qwenctl run qwen3-30b "Write a commit message for this" > message.txt',
        "qwenctl run model.gguf - < prompt.txt",
        "qwenctl run -f report.md -f 'src/**/*.py' \"Does the report describe this code?\"",
        "qwenctl run --template translate --var language=French < letter.txt  # a file in templates/",
        'qwenctl run -x "A Python script that prints the date" | python3 -',
        'qwenctl run "List three rivers" --json | jq -r .answer',
        'qwenctl run --tool weather.py "Is it raining in Rome?"  # asks before each call',
        "qwenctl run --schema 'name, born int, works str[]' \"Jane Austen\" | jq .born",
    ],
)
@configurable
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("--system", metavar="TEXT", help="System prompt; @FILE reads it from a file.")
@file_option
@template_options
@reply_options
@engine_flags
@prompt_cache_option
@tool_options
@click.option("-x", "--extract-code", is_flag=True, help="Print the first code block of the answer and nothing else.")
@click.option("--hide-reasoning", is_flag=True, help="Do not show what the model thinks; it still thinks.")
@click.option("--stats", is_flag=True, help="Afterwards, say what was generated how fast, on standard error.")
@output_options
def command(
    *,
    words: tuple[str, ...],
    system: str | None,
    files: tuple[str, ...],
    template: FilledTemplate,
    reply: ReplyOptions,
    engine: EngineOptions,
    tools: ToolOptions,
    extract_code: bool,
    hide_reasoning: bool,
    stats: bool,
    output: Output,
    settings: Settings,
) -> None:
    """Answer one prompt.

    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo. A single word that is neither a GGUF file nor such a name is the PROMPT.

    Files, then text that is piped in, stand before the PROMPT, blank lines between them; "-" stands for the pipe alone.
    Two questions about the same text begin alike, and the second one is answered sooner.

    The answer alone goes to standard output, as it is generated. What the model thinks goes to standard error.
    """
    asked = tell_apart(words, settings)
    attached = read_attachments(files, output.warning)
    given = read_prompt(asked.prompt, output.warning, [str(one) for one in attached], is_needed=template.needs_input)
    messages = _messages(told_of_schema(text_or_file(system), reply.schema), template.prompt(given))
    plain = PlainScreen(output, interactive=terminal_is_there())
    with (
        tools.opened(plain.choose, output.warning) as use,
        open_model(asked.model, engine, settings, output) as chat_model,
    ):
        if attached:
            output.note(attached_line(attached, chat_model.engine.tokenize))
        options = replace(reply.chat_options(), reports_progress=output.shows_status)
        condenser = Condenser(chat_model, condensing(output))
        answering = begin_answer(chat_model, messages, options, condenser.prepare, use)
        output.status("")
        for note in answering.prepared.notes:
            output.warning(note)
        code = FirstCodeBlock() if extract_code else None
        show_reasoning = not (hide_reasoning or output.quiet or output.json_mode)
        done = ReplyPrinter(output, show_reasoning=show_reasoning, code=code).print(answering)
        prepared = answering.prepared
        info, offload = chat_model.engine.info, chat_model.engine.offload_stats()
    if output.json_mode:
        output.data(_json_answer(info, prepared, done) | {"offload": offload} | chain_values(answering))
    if done.reason is FinishReason.ERROR:
        raise GenerationFailed(done.error or "the model stopped with an error")
    failed = violation(reply.schema, done) or _no_code(code)
    ending = finish_note(done, prepared.request.max_tokens, reply.max_tokens, info.n_ctx)
    for note in filter(None, (chain_note(answering), thinking_note(prepared, done), ending)):
        output.note(note)
    if stats:
        for line in stats_lines(info, prepared, done, offload=offload):
            output.report(line)
    if failed:
        raise failed


def _no_code(asked_for: FirstCodeBlock | None) -> QwenctlError | None:
    if asked_for is None or asked_for.begun:
        return None
    return QwenctlError("the answer holds no code block", "without --extract-code it is shown whole")


def _messages(system: str | None, prompt: str) -> list[Message]:
    return [*([Message("system", system)] if system else []), Message("user", prompt)]


def _json_answer(info: ModelInfo, prepared: PreparedPrompt, done: ReplyDone) -> dict[str, Any]:
    return {
        "model": info.name,
        "answer": done.answer,
        "code": [block.text for block in code_blocks(done.answer)],
        "reasoning": done.reasoning,
        "finish_reason": done.reason.value,
        "error": done.error,
        "thinking": prepared.thinking,
        "thinking_because": prepared.mode.why,
        "thinking_end": done.thinking_end,
        "reasoning_tokens": done.n_reasoning_tokens,
        "truncated": prepared.truncated.values if prepared.truncated else None,
        "n_ctx": info.n_ctx,
        "n_context_tokens": done.usage.n_prompt_tokens + done.usage.n_generated_tokens,
        **stats_values(done.usage, done.timing),
        "sampling": sampling_values(prepared.sampling, done.timing),
    }
