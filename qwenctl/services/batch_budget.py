"""A limit on the tokens of a whole batch, prompts and answers: kept for certain, not about. Pure.

An attempt is begun only when the most that it can take still fits beside the most that all others under way can take.
What it did take is counted when it ends, and what it did not is free again.
"""

from __future__ import annotations


class TokenBudget:
    """Counts tokens.

    Args:
        limit: of the whole batch; None: there is none.
        n_spent: by earlier runs.
    """

    def __init__(self, limit: int | None, n_spent: int = 0) -> None:
        self.limit = limit
        self.n_spent = n_spent
        self._reserved: dict[int, int] = {}  # number of a line → tokens

    def reserve(self, line_number: int, n_most: int) -> bool:
        """Set tokens aside for a line's attempt. False: they do not fit, and nothing is changed."""
        n_taken = self.n_spent + sum(self._reserved.values()) + n_most
        if self.limit is not None and n_taken > self.limit:
            return False
        self._reserved[line_number] = n_most
        return True

    def settle(self, line_number: int, n_spent: int) -> None:
        """The attempt is over and took so many."""
        self._reserved.pop(line_number, None)
        self.n_spent += n_spent
