"""The chat page's files, read once and served with headers that let it load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.types import Receive, Scope, Send

from qwenctl.services.server.asgi_answers import Header, send_bytes

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".html": b"text/html", ".css": b"text/css", ".js": b"text/javascript", ".svg": b"image/svg+xml"}
_POLICY = b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"


class PageFile:
    """Answers with one file."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._headers: tuple[Header, ...] = (
            (b"content-type", _TYPES[path.suffix] + b"; charset=utf-8"),
            (b"content-security-policy", _POLICY),
            (b"cache-control", b"no-cache"),
        )

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send_bytes(send, 200, self._body, self._headers)


def page_files() -> dict[str, PageFile]:
    """Return path → file: "/" is index.html, the others lie beside it."""
    found = {f"/{path.name}": PageFile(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    return {"/" if path == "/index.html" else path: file for path, file in found.items()}
