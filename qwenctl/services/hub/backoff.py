"""How long to wait before a request is tried again. Pure decisions; nothing here waits.

The delay doubles with each failure in a row, up to a limit, and half of it is left to chance, so that many clients that
failed together do not come back together. A server that names a time is given it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# What the hub says of its own limits: `"api";r=0;t=55` is 0 requests left, 55 seconds until there are more.
# https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-09.html
_RATE_LIMIT = re.compile(r";\s*r\s*=\s*0\b.*?;\s*t\s*=\s*(\d+)")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently. Bytes that arrive start the count anew."""

    n_attempts: int = 10  # in a row without a byte; about two and a half minutes with the delays below
    first_s: float = 0.5
    most_s: float = 30.0
    most_asked_s: float = 600.0  # a server that asks for more is not waited for

    def __post_init__(self) -> None:
        if self.n_attempts < 1 or not 0 <= self.first_s <= self.most_s:
            raise ValueError(f"not a way to retry: {self}")

    def delay_s(self, n_failures: int, asked_s: float | None, chance: random.Random) -> float | None:
        """Return the seconds to wait after the `n_failures`th failure in a row; None: give up.

        Args:
            n_failures: 1 or more.
            asked_s: the time that the server named, if it did.
            chance: the source of randomness.
        """
        if n_failures >= self.n_attempts or (asked_s or 0.0) > self.most_asked_s:
            return None
        longest_s = min(self.most_s, self.first_s * 2.0 ** min(n_failures - 1, 30))
        own_s = longest_s * (0.5 + 0.5 * chance.random())
        return max(own_s, asked_s or 0.0)


def asked_delay_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Return the seconds that a server asks us to stay away, or None if it does not.

    Args:
        headers: of the response, found whatever the case of their names.
        now_s: seconds since 1970; `Retry-After` may name a date.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    if text:
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
        except ValueError:
            return None
    match = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return float(match[1]) if match else None
