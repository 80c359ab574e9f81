r"""The formats of strings that are enforced, as regular expressions. A table, nothing else.

Sources: RFC 3339 (date, time, date-time, duration in its appendix A), RFC 4122 (uuid), RFC 2673 and 4291 (addresses),
RFC 1123 (hostname). `email`, `uri` are narrower than their RFCs: what is matched is valid, but quoted local parts, IP
literals and the like are not generated. Dates know the lengths of months and leap years. A leap second is not made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_LABEL = r"[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_LOCAL = r"[a-zA-Z0-9_+-]+(?:\.[a-zA-Z0-9_+-]+)*"
_DURATION_TIME = r"T(?:\d{1,9}H(?:\d{1,9}M(?:\d{1,9}S)?)?|\d{1,9}M(?:\d{1,9}S)?|\d{1,9}S)"
_DURATION_DATE = r"(?:\d{1,9}D|\d{1,9}M(?:\d{1,9}D)?|\d{1,9}Y(?:\d{1,9}M(?:\d{1,9}D)?)?)"

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": f"^{_DATE}$",
        "time": f"^{_TIME}$",
        "date-time": f"^{_DATE}T{_TIME}$",
        "duration": rf"^P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|\d{{1,9}}W)$",
        "uuid": r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
        "ipv4": f"^{_IPV4}$",
        "ipv6": r"^(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$",
        "hostname": f"^{_HOST}$",
        "email": rf"^{_LOCAL}@{_LABEL}(?:\.{_LABEL})+$",
        "uri": rf"^[a-z][a-z0-9+.-]+://{_HOST}(?::\d{{1,4}})?(?:/[a-zA-Z0-9._~!$&'()*+,;=:@/?#-]*)?$",
    }
)
