"""A small MCP server over stdio for tests; its first argument says how it misbehaves.

(nothing)   two tools: add, and wait, which takes as long as it is told
hang        never answers anything
die         ends at once, with a last word
flood       writes one line without end
chatter     writes what is no JSON between its answers
"""

from __future__ import annotations

import os
import sys
import time


def _serve() -> None:
    from mcp.server import MCPServer

    server = MCPServer("test")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return f"{a + b} of {sorted(os.environ)}"

    @server.tool()
    def wait(seconds: float) -> str:
        time.sleep(seconds)
        return "waited"

    @server.tool()
    def crash() -> str:
        os._exit(7)

    @server.tool()
    def refuse() -> str:
        raise ValueError("not today")

    server.run("stdio")


def main() -> None:
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how == "hang":
        time.sleep(600)
    if how == "die":
        sys.stderr.write("first\nthe database is not there\n")
        sys.exit(3)
    if how == "flood":
        while True:
            os.write(1, b"x" * 65536)
    if how == "chatter":
        os.write(1, b"Welcome to the server!\n\n")
    _serve()


if __name__ == "__main__":
    main()
