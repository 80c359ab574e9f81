"""The loop of a chat: a turn is a question or a command, until there are no more."""

from __future__ import annotations

from contextlib import nullcontext

from qwenctl.cli.chat.file_commands import attach_mentioned_files
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import LeaveChat
from qwenctl.cli.chat.slash_commands import run_slash_command
from qwenctl.cli.interrupt import InterruptWatch, hang_up_in_order
from qwenctl.errors import InvalidRequest


def run_chat(session: ChatSession) -> None:
    """Take turns until the user leaves. A Ctrl-C that comes just when an answer has ended does nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C twice while the model answers.
        OtherModel: another one shall go on.
        HungUp: the terminal has gone; what there was of an answer is saved.
    """
    with hang_up_in_order():
        _take_turns(session)


def _take_turns(session: ChatSession) -> None:
    while True:
        try:
            turn = session.screen.read_turn(session.meter)
        except KeyboardInterrupt:
            session.screen.note("Ctrl-D or /exit ends the chat")
            continue
        if turn is None:
            return
        try:
            with InterruptWatch() if session.screen.interactive else nullcontext():
                _take(session, turn)
        except InvalidRequest as error:  # a file in the question that is no text
            session.n_failed += 1
            session.screen.error(error.message, error.hint)
        except LeaveChat:
            return


def _take(session: ChatSession, turn: str) -> None:
    if turn.startswith("/"):
        run_slash_command(session, turn)
    else:
        attach_mentioned_files(session, turn)
        session.ask(turn.strip())
