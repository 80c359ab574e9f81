"""The slash commands about the last answer, and about the room for the next one."""

from __future__ import annotations

from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import SlashCommand, path_argument
from qwenctl.cli.code_blocks import CodeBlock, code_blocks
from qwenctl.errors import InvalidRequest
from qwenctl.services.private_file import create_private
from qwenctl.units import counted

_SAVE_USAGE = "/save-code 1 script.py"


def _stats(session: ChatSession, _: str) -> None:
    session.screen.show("\n".join(session.stats))


def _reasoning(session: ChatSession, _: str) -> None:
    last = session.last_answered
    if last is None or last.reasoning is None:
        session.screen.note("there is none: the model did not think before its last answer")
    else:
        session.screen.show(last.reasoning, dim=True)


def _context(session: ChatSession, _: str) -> None:
    session.screen.show("\n".join(session.context_use.lines()))


def _copy(session: ChatSession, number: str) -> None:
    text = _block(session, number).text if number else _answer(session)
    if not session.screen.copy(text):
        raise InvalidRequest("only a terminal has a clipboard", "/save-code N FILE writes code to a file")
    session.screen.note(
        f"{len(text)} characters sent to the clipboard, if the terminal takes OSC 52 (in tmux: set -g set-clipboard on)"
    )


def _save_code(session: ChatSession, words: str) -> None:
    number, _, name = words.partition(" ")
    path = path_argument(name.strip(), _SAVE_USAGE)
    block = _block(session, number)
    create_private(path, block.text)
    n_lines = block.text.count("\n")
    session.screen.note(f"{counted(n_lines, 'line')} written to {path}")


def _answer(session: ChatSession) -> str:
    last = session.last_answered
    if last is None or last.answer is None:
        raise InvalidRequest("there is no answer yet")
    return last.answer


def _block(session: ChatSession, number: str) -> CodeBlock:
    """Return a code block of the last answer by its number, from 1.

    Raises:
        InvalidRequest: there is none of that number.
    """
    blocks = code_blocks(_answer(session))
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(blocks)):
        there = f"the last answer has {len(blocks)} of them" if blocks else "the last answer has none"
        raise InvalidRequest(f"no code block {number}: {there}", "they are numbered from 1")
    return blocks[int(number) - 1]


ANSWER_COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand(("/reasoning",), "", "what the model thought before its last answer", _reasoning),
    SlashCommand(("/copy",), "[N]", "the last answer, or its Nth code block, to the clipboard", _copy),
    SlashCommand(("/save-code",), "N FILE", "write the Nth code block of the last answer to a file", _save_code),
    SlashCommand(("/stats",), "", "tokens, speed and sampling of the last answer", _stats),
    SlashCommand(("/context",), "", "what uses the context, and how much is free", _context),
)
