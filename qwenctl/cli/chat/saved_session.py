"""Which saved chat `qwenctl chat` goes on with, which model then answers, and what is said about it.

Knows options and the store of sessions; no screens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import click

from qwenctl.cli.output import Output
from qwenctl.cli.session_list import print_sessions
from qwenctl.core import ModelInfo
from qwenctl.errors import InvalidRequest, ModelNotFound
from qwenctl.services.conversation import Conversation
from qwenctl.services.demo_file import DEMO_NAME, converted_demo
from qwenctl.services.model_store import is_model
from qwenctl.services.session import Session, new_session
from qwenctl.services.session_choice import FoundSession, find_session, latest_session, open_store
from qwenctl.services.session_record import SessionRecord
from qwenctl.services.session_store import SessionQuery, SessionStore
from qwenctl.settings import Settings
from qwenctl.units import counted

_CHOOSE = ""  # --resume without a value
_N_TO_CHOOSE_FROM = 10

F = TypeVar("F", bound=Callable[..., Any])


class SavedSession(NamedTuple):
    """What the options of a chat say about sessions."""

    store: SessionStore
    session: Session | None  # to go on with; None: a new one
    saves: bool

    def conversation(self, system: str | None, thinking: bool | None) -> Conversation:
        """Return what the chat begins with: the saved conversation, changed by what the options say."""
        conversation = self.session.conversation if self.session else Conversation()
        if system is not None:
            conversation = conversation.with_system(system)
        return conversation if thinking is None else conversation.with_thinking(thinking)

    def model(self, named: str | None, settings: Settings) -> str | None:
        """Return the model to open: the one that is named, or the one that the session was with.

        Raises:
            ModelNotFound: the session's model is not there any more.
        """
        if named is not None or self.session is None:
            return named
        head = self.session.head
        if not is_model(head.model, settings):
            hint = f"let another one go on: qwenctl chat MODEL --resume {head.session_id}"
            raise ModelNotFound(f"{head.model}, the model of session {head.session_id}, is not there any more", hint)
        return head.model

    def record(self, info: ModelInfo, settings: Settings, output: Output) -> SessionRecord | None:
        """Return what saves the chat with the model `info`; say so where another one answered before."""
        demo = converted_demo(settings)
        model = DEMO_NAME if demo is not None and str(demo) == info.path else info.path
        if self.session is None:
            return SessionRecord(self.store, new_session(model, info.name)) if self.saves else None
        head = self.session.head
        if head.model != model:
            output.note(f"{head.model_name} answered in this session before; now it is {info.name}")
        session = replace(self.session, head=replace(head, model=model, model_name=info.name))
        return SessionRecord(self.store, session) if self.saves else None

    def gone_on(self, record: SessionRecord | None) -> SavedSession:
        """Return it as the chat has left it so far, for another model."""
        return self if record is None else self._replace(session=record.saved)


def session_options(function: F) -> F:
    """Add `--continue`, `--resume` and `--session`."""
    for option in reversed(
        (
            click.option("-c", "--continue", "continues", is_flag=True, help="Go on with the latest saved chat."),
            click.option(
                "-r",
                "--resume",
                metavar="[ID|WORDS]",
                is_flag=False,
                flag_value=_CHOOSE,
                help="Go on with the saved chat of this ID, or the latest that holds these words; without, choose one.",
            ),
            click.option(
                "--session/--no-session",
                "saves",
                default=None,
                help="Save this chat, or do not.  [default: QWENCTL_SESSIONS, or save it]",
            ),
        )
    ):
        function = option(function)
    return function


def choose_session(
    *, continues: bool, resume: str | None, saves: bool | None, settings: Settings, output: Output
) -> SavedSession:
    """Return what the options mean.

    Raises:
        InvalidRequest: there is no such session; the options contradict each other.
    """
    store = open_store(settings)
    saves = settings.sessions if saves is None else saves
    if not continues and resume is None:
        return SavedSession(store, None, saves)
    if continues and resume is not None:
        raise InvalidRequest("--continue and --resume exclude each other", "leave one of them out")
    if continues:
        found = latest_session(store)
    else:
        found = _choose(store, output) if resume == _CHOOSE else find_session(store, resume or "")
    others = f"; {found.n_others} older ones have these words, too" if found.n_others else ""
    exchanges = counted(found.head.n_exchanges, "exchange")
    output.note(f"session {found.head.session_id}, {exchanges}: {found.head.title}{others}")
    return SavedSession(store, store.read(found.head.session_id), saves)


def _choose(store: SessionStore, output: Output) -> FoundSession:
    """Show the latest sessions and let the user type a number."""
    if not sys.stdin.isatty():
        raise InvalidRequest(
            "--resume needs an ID or words", "qwenctl sessions ls lists them; --continue is the latest"
        )
    heads = store.heads(SessionQuery(limit=_N_TO_CHOOSE_FROM))
    if not heads:
        return latest_session(store)  # which says that there is none
    print_sessions(heads, Output(stdout=sys.stderr, plain=not output.styles_stderr), numbered=True)
    answer = click.prompt("Number", type=click.IntRange(1, len(heads)), default=1, err=True)
    return FoundSession(heads[answer - 1])
