"""Whether a GBNF grammar may be handed to llama.cpp, whose parser recurses once a group and dies on some thousand.

Pure: finds what would crash or exhaust the parser (grammar_cost.py); whether the grammar makes sense is for llama.cpp
to say. What no check of the grammar alone finds: one that leaves many readings of the same text open while it is
written. It gets slower with each token, and sampler_chain.py ends it when one takes seconds.
"""

from __future__ import annotations

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_cost import check_cost

MAX_BYTES = 1 << 20


def check_grammar(grammar: str) -> None:
    """Raise if `grammar` could harm the process.

    Raises:
        InvalidRequest: it is empty, too long, not GBNF, holds a NUL, or would take too much memory or time.
    """
    if not grammar.strip():
        raise InvalidRequest("the grammar is empty", "leave it out, or write at least: root ::= …")
    if "\0" in grammar:
        raise InvalidRequest("the grammar holds a NUL character")
    n_bytes = len(grammar.encode("utf-8", "replace"))
    if n_bytes > MAX_BYTES:
        raise InvalidRequest(f"the grammar is {n_bytes:,} bytes long; at most {MAX_BYTES:,} are taken")
    check_cost(grammar)
