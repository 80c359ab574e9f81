"""How many answers may be under way: as many as are computed at once, and a bounded queue behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.server.asgi_answers import Refused, shutting_down

_RETRY_FULL_S = 2


class Admission:
    """Counts answers under way. Used on the event loop only."""

    def __init__(self, n_most: Callable[[], int]) -> None:
        self._n_most = n_most  # depends on the model
        self.n_under_way = 0
        self.is_draining = False

    @contextmanager
    def enter(self, n_answers: int = 1) -> Iterator[None]:
        """Take places for as long as the context lasts.

        Raises:
            Refused: 503, the server is about to end; 429, there are not so many places.
        """
        if self.is_draining:
            raise shutting_down()
        if self.n_under_way + n_answers > self._n_most():
            message = f"{self.n_under_way} answers are under way, which is as many as may wait"
            raise Refused(ApiError(429, message, None, "queue_full", _RETRY_FULL_S))
        self.n_under_way += n_answers
        try:
            yield
        finally:
            self.n_under_way -= n_answers
