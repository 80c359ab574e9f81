"""Prints the stored prompts: for `qwenctl cache` and `qwenctl cache ls`."""

from __future__ import annotations

import shutil

from qwenctl.cli.output import Output
from qwenctl.cli.session_list import iso_time, local_time
from qwenctl.services.prefix_cache.listing import stored_prefixes
from qwenctl.services.prefix_cache.options import FOLDER_NAME, PrefixCacheOptions
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


def print_cache(output: Output, settings: Settings) -> None:
    """Print a line for each stored prompt, and what they take and may take of the disk together."""
    folder = settings.cache_dir / FOLDER_NAME
    found = stored_prefixes(folder)
    taken = sum(one.file_bytes for one in found)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
    limit = PrefixCacheOptions(folder, settings.prefix_cache_bytes).limit_bytes(free, taken)
    if output.json_mode:
        prompts = [
            {
                "id": one.name,
                "model": one.model,
                "tokens": one.n_tokens,
                "bytes": one.file_bytes,
                "used_at": iso_time(one.used_s),
                "path": str(one.path),
            }
            for one in found
        ]
        output.data({"folder": str(folder), "bytes": taken, "limit_bytes": limit, "prompts": prompts})
        return
    if found:
        rows = [
            (
                one.name,
                one.model or "damaged",
                one.n_tokens,
                format_bytes(one.file_bytes),
                local_time(one.used_s),
            )
            for one in found
        ]
        output.table(("id", "model", "tokens", "size", "used"), rows, right=(2, 3))
    else:
        output.note(f"no prompts are kept in {folder}")
    if limit == 0:
        output.note("switched off: QWENCTL_PREFIX_CACHE")
    else:
        output.note(f"{format_bytes(taken)} of {format_bytes(limit)} that they may take")
