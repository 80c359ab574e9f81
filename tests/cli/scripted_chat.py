"""A chat on whatever terminal this runs on, with a model that says what a script tells it to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenctl.cli.chat.line_input import LineInput
from qwenctl.cli.chat.loop import run_chat
from qwenctl.cli.chat.plain_screen import PlainScreen
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_commands import COMPLETIONS
from qwenctl.cli.chat.terminal_screen import TerminalScreen
from qwenctl.cli.output import Output
from qwenctl.cli.theme import THEMES
from qwenctl.cli.tool_options import ToolOptions
from qwenctl.services.conversation import Conversation
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.tools.tool_sources import NamedTools
from tests.chat_templates import QWEN3
from tests.scripted_engine import ScriptedEngine


def scripted_chat(
    kind: str,
    record: Path,
    history: Path | None,
    script: dict[str, Any],
    *,
    theme: str = "dark",
    tools: Sequence[str] = (),
) -> None:
    """Chat until the user leaves; then write the prompts that the model got to `record`.

    Args:
        kind: "terminal" or "plain".
        script: arguments of `ScriptedEngine`.
        tools: Python files of tools, whose calls need a yes.
    """
    output = Output(plain=kind == "plain")
    if kind == "plain":
        screen = PlainScreen(output, interactive=True)
    else:
        screen = TerminalScreen(output, LineInput(COMPLETIONS, history, THEMES[theme]), THEMES[theme])
    options = ToolOptions(NamedTools(tools), "ask", 10)
    with (
        options.opened(screen.choose, screen.note) as use,
        ScriptedEngine(chat_template=QWEN3, **script) as engine,
        screen,
    ):
        model = ChatModel(engine)
        run_chat(ChatSession(model, screen, ChatOptions(), Conversation(), tools=use))
        model.close()
        record.write_text(json.dumps(engine.prompts), encoding="utf-8")
