"""How long saved chats keep somebody waiting: the write after a turn, the list, a search through all of them.

    python scripts/bench_sessions.py [--sessions 2000]

The chats are made up of words of the README: 10 turns, some 3 KB each.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qwenctl.services.conversation import Conversation
from qwenctl.services.session import new_session
from qwenctl.services.session_store import SessionQuery, SessionStore

_WORDS = Path(__file__).resolve().parents[1].joinpath("README.md").read_text(encoding="utf-8").split()
_N_TURNS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=2000, metavar="N")
    n_sessions = parser.parse_args().sessions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sessions.db"
        store = SessionStore(path)
        turns = [seconds for number in range(n_sessions) for seconds in _talk(store, number, saves_each=number < 20)]
        print(f"{platform.processor() or platform.machine()}, SQLite {sqlite3.sqlite_version}")
        print(f"{n_sessions:,} chats of {_N_TURNS} turns, {path.stat().st_size / 1e6:.1f} MB")
        print(f"write after a turn    {1e3 * statistics.median(turns):7.1f} ms (longest {1e3 * max(turns):.1f})")
        print(f"list of the latest 20 {1e3 * _median_s(lambda: store.heads(SessionQuery(limit=20))):7.1f} ms")
        print(f"list of all           {1e3 * _median_s(store.heads):7.1f} ms")
        for words in (("quantization",), ("nowhere-to-be-found",), ("llama.cpp", "köln")):
            search = partial(store.heads, SessionQuery(words))
            spent_ms = 1e3 * _median_s(search)
            print(f"search {' '.join(words):<19} {spent_ms:7.1f} ms, {len(search()):,} found")


def _talk(store: SessionStore, number: int, *, saves_each: bool) -> list[float]:
    """Save a chat turn by turn, or at once; return the seconds of the writes after single turns."""
    session, conversation, spent = new_session("/m.gguf", "some model"), Conversation(), list[float]()
    for turn in range(_N_TURNS):
        first = (number * 97 + turn * 31) % max(1, len(_WORDS) - 400)
        question, answer = " ".join(_WORDS[first : first + 20]), " ".join(_WORDS[first : first + 300])
        conversation = conversation.add_user(question).add_assistant(answer)
        if saves_each or turn == _N_TURNS - 1:
            start_s = time.perf_counter()
            session = store.save(session, conversation)
            spent += [time.perf_counter() - start_s] if saves_each else []
    return spent


def _median_s(action: Callable[[], object]) -> float:
    spent = []
    for _ in range(3):
        start_s = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start_s)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
