"""Prints what was removed, or would be: for `models rm` and `models prune`."""

from __future__ import annotations

from dataclasses import asdict

from qwenctl.cli.output import Output
from qwenctl.services.model_removal import Removable
from qwenctl.units import format_bytes


def print_removed(found: tuple[Removable, ...], output: Output, *, dry_run: bool) -> None:
    """Print each file, and what the disk gets back."""
    freed_bytes = sum(removable.freed_bytes for removable in found)
    if output.json_mode:
        files = [{**asdict(removable), "path": str(removable.path)} for removable in found]
        output.data({"removed": not dry_run, "freed_bytes": freed_bytes, "files": files})
        return
    for removable in found:
        output.line(f"{removable.path}  {format_bytes(removable.freed_bytes)}  {removable.why}")
    if not found:
        output.note("nothing to remove")
    else:
        output.note(f"{format_bytes(freed_bytes)} {'would be freed' if dry_run else 'freed'}")
