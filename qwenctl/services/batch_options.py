"""How a batch is run. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwenctl.errors import InvalidRequest
from qwenctl.services.batch_order import Order
from qwenctl.services.generation import ChatOptions

DEFAULT_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a user may decide about a batch.

    Raises:
        InvalidRequest: a number is out of range.
    """

    chat: ChatOptions = field(default_factory=ChatOptions)  # for lines that do not say otherwise
    system: str | None = None  # for lines without a system prompt
    parallel: int = DEFAULT_PARALLEL  # sequences at the same time; the engine is opened for as many
    restart: bool = False  # throw earlier results away
    retry_errors: bool = False  # answer lines again that have an error record
    order: Order = "finished"
    n_retries: int = 2  # further attempts at a line whose attempt failed
    max_total_tokens: int | None = None  # of prompts and answers, those of earlier runs included; None: no limit

    def __post_init__(self) -> None:
        if self.parallel < 1:
            raise InvalidRequest("a batch needs at least one sequence")
        if self.n_retries < 0 or (self.max_total_tokens is not None and self.max_total_tokens < 1):
            raise InvalidRequest("retries must not be negative, nor a limit of tokens below 1")
