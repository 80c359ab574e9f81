"""`qwenctl chat`: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

import sys

import click

from qwenctl.cli.chat.conversation_commands import show_last_exchange
from qwenctl.cli.chat.line_input import LineInput
from qwenctl.cli.chat.loop import run_chat
from qwenctl.cli.chat.plain_screen import PlainScreen
from qwenctl.cli.chat.saved_session import SavedSession, choose_session, session_options
from qwenctl.cli.chat.screen import Screen
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import OtherModel
from qwenctl.cli.chat.slash_commands import COMPLETIONS
from qwenctl.cli.chat.terminal_screen import TerminalScreen
from qwenctl.cli.command import Command
from qwenctl.cli.configured_options import configurable, was_asked_for
from qwenctl.cli.engine_flags import engine_flags, prompt_cache_option
from qwenctl.cli.file_option import file_option
from qwenctl.cli.open_model import open_model
from qwenctl.cli.option_choice import MODEL
from qwenctl.cli.options import model_argument, quiet_option
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import text_or_file
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.cli.schema_options import told_of_schema
from qwenctl.cli.theme import THEMES, Theme
from qwenctl.cli.tool_options import ToolOptions, tool_options
from qwenctl.errors import ExitCode
from qwenctl.services.attached_files import read_attachments
from qwenctl.services.conversation import Conversation
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.model_store import is_model, model_not_found
from qwenctl.settings import Settings


@click.command(
    "chat",
    cls=Command,
    examples=[
        "qwenctl chat",
        'qwenctl chat qwen3-30b --system "Answer in one sentence."',
        "qwenctl chat model.gguf --no-think --ctx 32k",
        "qwenctl chat --continue                            # the latest chat goes on",
        'qwenctl chat --resume "sky blue"                   # the latest one with these words; or its ID',
        "qwenctl chat -f notes.md                           # its text goes before the first question",
        "printf 'Hello!\\nAnd now in French.\\n' | qwenctl chat  # each line is a turn",
    ],
)
@configurable
@model_argument
@click.option("--system", metavar="TEXT", help="System prompt; @FILE reads it from a file.")
@file_option
@reply_options
@engine_flags
@prompt_cache_option
@tool_options
@session_options
@click.option(
    "--history/--no-history",
    default=None,
    help="Keep what is typed for the next time, or do not.  [default: QWENCTL_HISTORY, or keep it]",
)
@click.option(
    "--theme",
    type=click.Choice(list(THEMES)),
    help="Colours for a dark or a light terminal, or none.  [default: dark]",
)
@quiet_option
def command(
    *,
    model: str | None,
    system: str | None,
    files: tuple[str, ...],
    reply: ReplyOptions,
    engine: EngineOptions,
    tools: ToolOptions,
    continues: bool,
    resume: str | None,
    saves: bool | None,
    history: bool | None,
    theme: str | None,
    output: Output,
    settings: Settings,
) -> int:
    """Talk with a model in the terminal.

    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo.

    Each turn is saved when it has ended, in qwenctl's data folder, readable by you alone; --continue and --resume go on
    with a saved chat: its system prompt, thinking mode and model, unless options say otherwise. `qwenctl sessions`
    lists, exports and removes them.

    Type /help in the chat for its commands. If standard input is not a terminal, each line of it is a turn, and the
    answers alone go to standard output.
    """
    attached = read_attachments(files, output.warning)
    saved = choose_session(continues=continues, resume=resume, saves=saves, settings=settings, output=output)
    conversation = _conversation(saved, system, reply)
    opened = saved.model(model or (settings.model if was_asked_for(MODEL) else None), settings)
    history = settings.history if history is None else history
    screen = _screen(output, settings, THEMES[theme or settings.theme], history=history)
    n_failed = 0
    while True:
        with (
            tools.opened(screen.choose, screen.note) as use,
            open_model(opened, engine, settings, output) as chat_model,
            screen,
        ):
            record = saved.record(chat_model.engine.info, settings, output)
            session = ChatSession(chat_model, screen, reply.chat_options(), conversation, record, tools=use)
            if screen.interactive:
                screen.note(f"{chat_model.engine.info.name} · /help shows the commands, Ctrl-D ends the chat")
                show_last_exchange(session)
            session.attach(attached)
            other = _until_left(session, settings)
        n_failed += session.n_failed
        if other is None:
            break
        opened, conversation, saved, attached = other, session.conversation, saved.gone_on(record), ()
    if screen.interactive and record is not None and record.saved_id is not None:
        output.note(f"saved; go on with qwenctl chat --resume {record.saved_id}")
    return ExitCode.FAILED if n_failed and not screen.interactive else ExitCode.DONE


def _until_left(session: ChatSession, settings: Settings) -> str | None:
    """Chat until the user leaves; return the model that shall go on instead, if one shall."""
    while True:
        try:
            run_chat(session)
        except OtherModel as other:
            if is_model(other.name, settings):
                return other.name
            error = model_not_found(other.name, settings)
            session.screen.error(error.message, error.hint)
        else:
            return None


def _conversation(saved: SavedSession, system: str | None, reply: ReplyOptions) -> Conversation:
    """Return what the chat begins with. What is saved wins over what is only configured."""
    is_new = saved.session is None
    conversation = saved.conversation(
        text_or_file(system) if is_new or was_asked_for("system") else None,
        reply.thinking if is_new or was_asked_for("think") else None,
    )
    return conversation.with_system(told_of_schema(conversation.system, reply.schema))


def _screen(output: Output, settings: Settings, theme: Theme, *, history: bool) -> Screen:
    """Return the richest screen that this terminal can bear."""
    if not sys.stdin.isatty() or not sys.stdout.isatty() or settings.plain:
        return PlainScreen(output, interactive=sys.stdin.isatty())
    history_file = settings.data_dir / "chat_history" if history else None
    return TerminalScreen(output, LineInput(COMPLETIONS, history_file, theme), theme)
