"""Whether a prefix is worth reading from the disk, or writing to it: seconds against seconds. Pure.

Whole states are kept, one file for each conversation or document, not chunks that several could share: llama.cpp gives
and takes the cells of a sequence as a whole, and a chunk would have to be cut out of each layer's part of that. What
this costs is disk for branches, so a branch is written only where what is new in it took its time.
"""

from __future__ import annotations

MIN_TOKENS = 256  # a shorter prefix is computed sooner than looked for
MIN_SAVED_S = 0.25

READ_BYTES_S = 500e6  # until measured: a slow SSD
WRITE_BYTES_S = 250e6

_MOST_SHARE_OF_SAVING = 0.5  # of the seconds that a prefix can save, for writing it when nobody waits
_MOST_SHARE_OF_WORK = 0.05  # of the seconds that a prompt has taken so far, for writing it while somebody waits
LEAST_BRANCH = 0.2  # of what a state took, for a second file that begins as another one does
CHECKPOINT_S = 30.0  # of work that a kill may cost


def load_pays(n_tokens: int, saved_s: float, state_bytes: int, bytes_s: float) -> bool:
    """Return whether to read a state.

    Args:
        n_tokens: that need not be computed then.
        saved_s: what they would take.
        state_bytes: of the whole file.
        bytes_s: at which states were read.
    """
    return n_tokens >= MIN_TOKENS and saved_s >= MIN_SAVED_S and state_bytes / bytes_s < saved_s


def save_pays(lost_s: float, state_bytes: int, bytes_s: float) -> bool:
    """Return whether to write a state when its request is over.

    Args:
        lost_s: what the tokens that no file holds yet would take to compute.
        state_bytes: of the whole file.
        bytes_s: at which states were written.
    """
    seconds = state_bytes / bytes_s
    return lost_s >= MIN_SAVED_S and seconds <= _MOST_SHARE_OF_SAVING * lost_s


def checkpoint_pays(lost_s: float, state_bytes: int, bytes_s: float) -> bool:
    """Return whether to write a state while its prompt is being computed, for which the request has to wait."""
    return lost_s >= CHECKPOINT_S and state_bytes / bytes_s <= _MOST_SHARE_OF_WORK * lost_s
