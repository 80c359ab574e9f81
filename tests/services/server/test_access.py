"""Who may ask: Host, Origin, key and Content-Type."""

from __future__ import annotations

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.server.access_rules import PAGE_PATHS, AccessRules, host_name
from qwenctl.services.server.page_files import page_files
from qwenctl.services.server.server_options import ServerOptions, is_loopback
from tests.services.server.live_server import live_server

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def status(rules: AccessRules, method: str = "GET", path: str = "/v1/models", **headers: str) -> int | None:
    given = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    refusal = rules.refusal(method, path, given)
    return refusal.status if refusal else None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", None),
        ("LOCALHOST:8000", None),
        ("127.0.0.1:8000", None),
        ("127.9.9.9", None),
        ("[::1]:8000", None),
        ("app.localhost", None),
        ("box.lan:8000", None),  # was allowed
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("2130706433", 421),
        ("127.1", 421),
        ("192.168.0.2", 421),
        ("0.0.0.0", 421),
        ("", 421),
        ("localhost:x", 421),
        ("[::1", 421),
        ("[::1]x", 421),
        ("@localhost", 421),
        ("localhost,evil.example", 421),
    ],
)
def test_hosts(host: str, expected: int | None) -> None:
    assert status(AccessRules(ServerOptions(allowed_hosts=("Box.lan",))), host=host) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8000", None),  # our own page
        ("https://app.example", None),  # was allowed
        ("https://APP.example", None),
        ("http://app.example", 403),
        ("https://app.example.evil", 403),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("null", 403),
        ("file://", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_origins(origin: str, expected: int | None) -> None:
    rules = AccessRules(ServerOptions(cors_origins=("https://app.example",)))
    assert status(rules, "POST", CHAT, origin=origin, content_type="application/json") == expected


def test_keys() -> None:
    rules = AccessRules(ServerOptions(host="0.0.0.0", api_key="secret"))
    assert status(rules, authorization="Bearer secret", host="whatever.example") is None
    assert status(rules, x_api_key="secret") is None
    for wrong in ({}, {"authorization": "Bearer secre"}, {"authorization": "Basic secret"}, {"x_api_key": "secreté"}):
        assert status(rules, **wrong) == 401
    assert [status(rules, path=path) for path in ("/health", "/ready", "/", "/page.js")] == [None] * 4
    assert status(rules, path="/metrics") == 401


def test_the_page_is_open_and_nothing_but_the_page() -> None:
    assert set(page_files()) == set(PAGE_PATHS)


def test_content_types() -> None:
    rules = AccessRules(ServerOptions())
    for good in ("application/json", "Application/JSON; charset=utf-8", 'application/json;charset="UTF-8"'):
        assert status(rules, "POST", CHAT, content_type=good) is None
    for bad in ("", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"):
        assert status(rules, "POST", CHAT, content_type=bad) == 415


def test_names() -> None:
    assert host_name("[::1]:80") == "[::1]"
    assert host_name("A.b.:1") == "a.b"
    assert host_name(":1") is None
    assert [is_loopback(name) for name in ("::1", "[::1]", "127.0.0.2", "LocalHost.", "10.0.0.1", "x")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_options_that_would_be_unsafe() -> None:
    with pytest.raises(InvalidRequest, match="can be reached from other machines"):
        ServerOptions(host="192.168.0.2")
    for key in ("", "a\nb", "schlüssel"):
        with pytest.raises(InvalidRequest, match="printable ASCII"):
            ServerOptions(api_key=key)
    for origin in ("*", "null", "https://a.example/", "app"):
        with pytest.raises(InvalidRequest, match="is no origin"):
            ServerOptions(cors_origins=(origin,))


def test_the_gate_on_a_socket() -> None:
    with live_server(cors_origins=("https://app.example",)) as server:
        preflight = server.ask("OPTIONS", CHAT, None, {"Origin": "https://app.example"})
        assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, "https://app.example")
        assert "access-control-allow-credentials" not in preflight.headers
        answer = server.ask("GET", "/v1/models", None, {"Origin": "https://app.example"})
        assert (answer.status, answer.headers["vary"]) == (200, "origin")
        stranger = server.ask("OPTIONS", CHAT, None, {"Origin": "https://evil.example"})
        assert stranger.status == 403
        assert "access-control-allow-origin" not in stranger.headers
        assert server.ask("GET", "/v1/models", None, {"Host": "evil.example"}).json["error"]["code"] == "unknown_host"
        assert server.ask("POST", CHAT, b"{}", {"Content-Type": "text/plain"}).status == 415
        page = server.ask("GET", "/")
        assert page.headers["content-security-policy"].startswith("default-src 'self';")
        assert page.headers["x-content-type-options"] == "nosniff"
        anthropic = server.ask("POST", "/v1/messages", b"{}")
        assert anthropic.json["type"] == "error"
