"""Whether a GBNF grammar may be handed to llama.cpp, whose parser recurses once a group and dies on some thousand.

Pure: finds what would crash or exhaust the parser (grammar_cost.py); whether the grammar makes sense is for llama.cpp
to say. What no check of the grammar alone finds: one that leaves many readings of the same text open while it is
written. It gets slower with each token, and sampler_chain.py ends it when one takes seconds.
"""

from __future__ import annotations

import re

from qwenctl.errors import InvalidRequest
from qwenctl.services.grammar_cost import check_cost

MAX_BYTES = 1 << 20
MAX_DEPTH = 256  # of groups; the parser of llama.cpp 0c1e57098 overflows the stack at some tens of thousands

# Literals and character classes hide parentheses, comments run to the end of the line (llama-grammar.cpp, parse_space).
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|<[^>]*>|#[^\n]*|[()]', re.DOTALL)


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
    depth = deepest_nesting(grammar)
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"the groups of the grammar are nested {depth:,} deep; at most {MAX_DEPTH} are taken")
    check_cost(grammar)


def deepest_nesting(grammar: str) -> int:
    """Return how deeply parentheses are nested, outside of literals, character classes and comments."""
    depth = deepest = 0
    for match in _TOKEN.finditer(grammar):
        if match[0] == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] == ")":
            depth = max(0, depth - 1)
    return deepest
