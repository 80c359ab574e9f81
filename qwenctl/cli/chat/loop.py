"""The loop of a chat: a turn is a question or a command, until there are no more."""

from __future__ import annotations

from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import LeaveChat
from qwenctl.cli.chat.slash_commands import run_slash_command


def run_chat(session: ChatSession) -> None:
    """Take turns until the user leaves.

    Raises:
        KeyboardInterrupt: Ctrl-C twice while the model answers.
    """
    while True:
        try:
            turn = session.screen.read_turn(session.meter)
        except KeyboardInterrupt:
            session.screen.note("Ctrl-D or /exit ends the chat")
            continue
        if turn is None:
            return
        try:
            if turn.startswith("/"):
                run_slash_command(session, turn)
            else:
                session.ask(turn.strip())
        except LeaveChat:
            return
