"""A process that downloads, for others to time. Its task is JSON on standard input.

    {"how": "ours" | "huggingface_hub", "endpoint": …, "folder": …, "n_connections": 8, "files": [RemoteFile as a dict]}

Prints seconds, peak resident bytes and processor seconds as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Do the task."""
    sys.path.insert(0, str(ROOT))
    task = json.load(sys.stdin)
    download = {"ours": prepare_ours, "huggingface_hub": prepare_theirs}[task["how"]](task)
    started = time.perf_counter()
    download()
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "cpu_s": used.ru_utime + used.ru_stime}))


def peak_bytes() -> int:
    """Return the peak of this program's resident memory; getrusage would count that of its parent, which forked it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def prepare_ours(task: dict[str, Any]) -> Any:
    """Import our download; return it, ready to be called."""
    from qwenctl.services.hub.connections import ClientOptions
    from qwenctl.services.hub.download import DownloadOptions, download
    from qwenctl.services.hub.range_client import RangeClient
    from qwenctl.services.hub.remote_file import RemoteFile

    remotes = [RemoteFile(**file) for file in task["files"]]
    options = DownloadOptions(n_connections=task["n_connections"])
    client = RangeClient(ClientOptions(task["endpoint"]))
    return lambda: download(client, remotes, Path(task["folder"]), options)


def prepare_theirs(task: dict[str, Any]) -> Any:
    """Import huggingface_hub's; return it, ready to be called."""
    os.environ |= {
        "HF_ENDPOINT": task["endpoint"],
        "HF_HOME": task["folder"],
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    from huggingface_hub import snapshot_download

    file = task["files"][0]
    return lambda: snapshot_download(
        file["repo_id"], revision=file["commit"], local_dir=task["folder"], max_workers=task["n_connections"]
    )


if __name__ == "__main__":
    main()
