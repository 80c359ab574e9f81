"""Lines and their names: of several with the same custom_id, the first is what will be answered under it.

A later one is a bad line, and gets the name of a line without a name. The same for whoever goes through the lines: the
run, the check, and the comparison with earlier results. 24 to 48 bytes of memory a line.
"""

from __future__ import annotations

from typing import NamedTuple

from qwenctl.services.batch_input import InputLine
from qwenctl.services.batch_request import BadLine, BatchRequest, default_id, parse_line
from qwenctl.services.fingerprint_table import FingerprintTable, fingerprint


class NamedRequest(NamedTuple):
    """What a line asks for, and the fingerprint of the custom_id that its record bears."""

    request: BatchRequest | BadLine
    name: int


class LineNames:
    """Reads lines, in the input's order. Fingerprints are in it once a line of that name was read."""

    def __init__(self) -> None:
        self._lines = FingerprintTable()  # fingerprint of a name → number of its line

    def __contains__(self, name: int) -> bool:
        return name in self._lines

    def read(self, line: InputLine) -> NamedRequest:
        """Return what `line` asks for."""
        request = parse_line(line)
        name = fingerprint(request.custom_id.encode())
        if (earlier := self._lines.get(name)) is not None:
            message = f"line {earlier} has the custom_id {request.custom_id!r} already"
            own_id = default_id(line.number, request.sha256)
            request = BadLine(own_id, request.sha256, "duplicate_custom_id", message)
            name = fingerprint(own_id.encode())
        self._lines.put(name, line.number)
        return NamedRequest(request, name)
