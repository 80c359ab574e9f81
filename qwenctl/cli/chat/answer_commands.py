"""The slash commands about the last answer."""

from __future__ import annotations

from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import SlashCommand


def _stats(session: ChatSession, _: str) -> None:
    session.screen.show("\n".join(session.stats))


def _reasoning(session: ChatSession, _: str) -> None:
    session.screen.show(session.reasoning or "there is none: the model did not think before its last answer")


ANSWER_COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand(("/reasoning",), "", "what the model thought before its last answer", _reasoning),
    SlashCommand(("/stats",), "", "tokens, speed and sampling of the last answer", _stats),
)
