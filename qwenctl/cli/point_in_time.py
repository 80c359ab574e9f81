"""The option type of a point in time: a date, a date with a time, or how long ago it was."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import click

_UNIT_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class PointInTime(click.ParamType[float]):
    """2026-11-26, "2026-11-26 09:42" (local time), or 90m, 12h, 7d, 2w ago; as seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds since 1970 that `value` means; nonsense is a usage error."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text.lower(), re.ASCII):
            return time.time() - int(ago.group(1)) * _UNIT_S[ago.group(2)]
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            return self.fail(f"{text!r} is no time; write 2026-11-26, or 12h, 7d or 2w for ago", param, ctx)
