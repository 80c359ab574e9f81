"""A value out of a file as it stands in a message: quoted, escaped, and short however long it is."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import Repr

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 96
_SHORT.maxlist = _SHORT.maxtuple = 8
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """Return `repr(value)`, cut in the middle where it is long."""
    return _SHORT.repr(value)


def named(name: str) -> str:
    """Return a name as it is, if it is printable and short, as names are; else `shown`."""
    return name if name.isprintable() and len(name) <= 96 else shown(name)


def some(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` names, and how many more there are."""
    rest = len(names) - most
    return separator.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
