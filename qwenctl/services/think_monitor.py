"""Where one reply stands with its think block, and when the block must be closed for the model.

    START   nothing but white space so far: the block may still open
    OPEN    inside; each token is counted, and watched for `</think>` and for loops
    GAP     after `</think>`: nothing but line breaks so far
    OVER    only answer from here on

Knows bytes of tokens; nothing of samplers, logits and how a block is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from qwenctl.core import ThinkBlock, ThinkingEnd
from qwenctl.services.loop_guard import WINDOW_TOKENS, repeats_endlessly
from qwenctl.services.thinking import CLOSE_TAG, OPEN_TAG

_OPEN_TAG, _CLOSE_TAG = OPEN_TAG.encode(), CLOSE_TAG.encode()
_LOOK_FOR_LOOPS_TOKENS = 64  # between two looks
_MOST_LINE_BREAKS = 4  # tokens of them after the block, before a grammar
_MOST_RESERVED_TOKENS = 512
_RESERVED_SHARE = 4  # of a reply at least a quarter is kept for the answer, or _MOST_RESERVED_TOKENS


class _State(Enum):
    START = auto()
    OPEN = auto()
    GAP = auto()
    OVER = auto()


def thinking_limit(budget: int | None, n_reply_tokens: int, n_ending_tokens: int) -> int | None:
    """Return after how many tokens a think block is closed; None: it may take the whole reply.

    Thinking must leave room for its own ending and for an answer, whatever was asked for. Without a budget, a reply
    that is too short for all of that is left alone: the ending would be all there is to read.

    Args:
        budget: as asked for.
        n_reply_tokens: that the reply may have.
        n_ending_tokens: of the text that closes the block.
    """
    reserve = min(_MOST_RESERVED_TOKENS, n_reply_tokens // _RESERVED_SHARE)
    most = n_reply_tokens - n_ending_tokens - reserve
    if budget is not None:
        return max(0, min(budget, most))
    return most if most > 0 else None


class ThinkMonitor:
    """Follows one reply, token by token, until its block is over.

    Args:
        block: as requested.
        limit: tokens of thinking after which the block is to be closed; None: none.
    """

    def __init__(self, block: ThinkBlock, limit: int | None) -> None:
        self.end: ThinkingEnd | None = None  # what closed the block
        self.n_tokens = 0  # of thinking; the tag that opens the block is not counted, the one that closes it is
        self._guards_loops = block.loop_guard
        self._limit = limit
        self._due: ThinkingEnd | None = None
        self._state = _State.OPEN if block.starts_inside else _State.START
        self._tail = b""  # the end of what was written, as far as it may be part of a tag
        self._n_line_breaks = 0
        self._check_limit()

    @property
    def is_open(self) -> bool:
        """Whether the next token belongs to the thinking."""
        return self._state is _State.OPEN

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to watch."""
        return self._state is _State.OVER

    @property
    def watches_stops(self) -> bool:
        """Whether a stop string may end the reply here: nowhere but in what is read as the answer."""
        return self._state in (_State.START, _State.OVER)

    @property
    def due(self) -> ThinkingEnd | None:
        """Why the block is to be closed now; None: it is not."""
        return self._due if self._state is _State.OPEN else None

    @property
    def owes_answer(self) -> bool:
        """Whether the model, whose thinking was cut short, has not begun with its answer yet."""
        return self._state is _State.GAP and self.end != "model"

    def ask(self) -> None:
        """Somebody wants the answer now; a block that is not open yet is closed when it opens."""
        self._due = self._due or "asked"

    def close(self, why: ThinkingEnd) -> None:
        """The block has been closed for the model, line breaks and all."""
        self.end, self._state = why, _State.GAP

    def is_exempt(self, piece: bytes) -> bool:
        """Return whether a token of these bytes, the next one, is none of the answer's, so that no grammar binds it."""
        if self._state is _State.START:
            return piece.strip() == _OPEN_TAG
        if self._state is _State.GAP:
            return bool(piece) and not piece.strip(b"\n") and self._n_line_breaks < _MOST_LINE_BREAKS
        return self._state is _State.OPEN

    def take(self, piece: bytes, tokens: Sequence[int]) -> bytes:
        """A token was generated: `piece` its bytes, the last of `tokens`.

        Returns:
            What the piece says after `</think>`, if it closes the block.
        """
        if self._state is _State.OPEN:
            return self._think(piece, tokens)
        if self._state is _State.START:
            self._start(piece)
        elif piece.strip(b"\n"):
            self._state = _State.OVER
        else:
            self._n_line_breaks += 1
        return b""

    def _start(self, piece: bytes) -> None:
        begin = (self._tail + piece).lstrip()
        if begin.startswith(_OPEN_TAG):
            self._state, self._tail = _State.OPEN, begin[len(_OPEN_TAG) :]
            self._check_limit()
        elif _OPEN_TAG.startswith(begin):
            self._tail = begin
        else:
            self._state = _State.OVER

    def _think(self, piece: bytes, tokens: Sequence[int]) -> bytes:
        self.n_tokens += 1
        tail = self._tail + piece
        _, tag, rest = tail.partition(_CLOSE_TAG)
        if tag:
            self.end = "model"
            self._state = _State.OVER if rest.strip(b"\n") else _State.GAP
            return rest
        self._tail = tail[-len(_CLOSE_TAG) + 1 :]
        self._check_limit()
        if self._guards_loops and self.n_tokens % _LOOK_FOR_LOOPS_TOKENS == 0:
            self._check_loops(tokens)
        return b""

    def _check_loops(self, tokens: Sequence[int]) -> None:
        if not self._due and repeats_endlessly(tokens[-min(self.n_tokens, WINDOW_TOKENS) :]):
            self._due = "loop"

    def _check_limit(self) -> None:
        if self._limit is not None and self.n_tokens >= self._limit and not self._due:
            self._due = "budget"
