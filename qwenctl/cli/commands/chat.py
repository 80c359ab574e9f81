"""`qwenctl chat`: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

import sys

import click

from qwenctl.cli.chat.line_input import LineInput
from qwenctl.cli.chat.loop import run_chat
from qwenctl.cli.chat.plain_screen import PlainScreen
from qwenctl.cli.chat.screen import Screen
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_commands import COMMANDS
from qwenctl.cli.chat.terminal_screen import TerminalScreen
from qwenctl.cli.command import Command
from qwenctl.cli.engine_flags import engine_flags, prompt_cache_option
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import model_argument, quiet_option
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import text_or_file
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.errors import ExitCode
from qwenctl.services.conversation import Conversation
from qwenctl.services.engine_options import EngineOptions
from qwenctl.settings import Settings


@click.command(
    "chat",
    cls=Command,
    examples=[
        "qwenctl chat",
        'qwenctl chat qwen3-30b --system "Answer in one sentence."',
        "qwenctl chat model.gguf --no-think --ctx 32k",
        "printf 'Hello!\\nAnd now in French.\\n' | qwenctl chat  # each line is a turn",
    ],
)
@model_argument
@click.option("--system", metavar="TEXT", help="System prompt; @FILE reads it from a file.")
@reply_options
@engine_flags
@prompt_cache_option
@click.option("--no-history", is_flag=True, help="Keep nothing of what is typed.  [default: QWENCTL_HISTORY]")
@quiet_option
def command(
    *,
    model: str | None,
    system: str | None,
    reply: ReplyOptions,
    engine: EngineOptions,
    no_history: bool,
    output: Output,
    settings: Settings,
) -> int:
    """Talk with a model in the terminal.

    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo.

    Type /help in the chat for its commands. If standard input is not a terminal, each line of it is a turn, and the
    answers alone go to standard output.
    """
    conversation = Conversation(text_or_file(system), reply.thinking)
    with open_model(model, engine, settings, output) as chat_model:
        screen = _screen(output, settings, history=settings.history and not no_history)
        session = ChatSession(chat_model, screen, reply.chat_options(), conversation)
        if screen.interactive:
            output.note(f"{chat_model.engine.info.name} · /help shows the commands, Ctrl-D ends the chat")
        run_chat(session)
    return ExitCode.FAILED if session.n_failed and not screen.interactive else ExitCode.DONE


def _screen(output: Output, settings: Settings, *, history: bool) -> Screen:
    """Return the richest screen that this terminal can bear."""
    if not sys.stdin.isatty() or not sys.stdout.isatty() or settings.plain:
        return PlainScreen(output, interactive=sys.stdin.isatty())
    names = [name for entry in COMMANDS for name in entry.names]
    return TerminalScreen(output, LineInput(names, settings.data_dir / "chat_history" if history else None))
