"""Serve folders as repositories until standard input ends. Prints the address for HF_ENDPOINT.

python -m tests.hub_server org/name=FOLDER [--bytes-per-s N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.hub_server.server import HubServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repositories", nargs="+", metavar="ORG/NAME=FOLDER")
    parser.add_argument("--bytes-per-s", type=float, help="of each connection")
    arguments = parser.parse_args()
    with HubServer(bytes_per_s=arguments.bytes_per_s) as hub:
        for item in arguments.repositories:
            repo_id, _, folder = item.partition("=")
            files = {str(path.relative_to(folder)): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
            hub.add(repo_id, files)
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
