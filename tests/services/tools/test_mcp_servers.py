"""MCP servers over stdio: a good one, and those that hang, die, flood or chatter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.tools.mcp_config import McpServer, parse_mcp_command, read_mcp_config
from qwenctl.services.tools.mcp_servers import McpServers
from qwenctl.services.tools.tool_box import ToolBox
from qwenctl.services.tools.tool_call import ToolCall

SERVER = str(Path(__file__).with_name("mcp_test_server.py"))


def server(*args: str, name: str = "test", **env: str) -> McpServer:
    """Return how the test server is started."""
    return McpServer(name, sys.executable, (SERVER, *args), env)


def boxed(*servers: McpServer, limit_s: float = 20.0, start_limit_s: float = 30.0) -> ToolBox:
    """Start servers and return their box."""
    running = McpServers(servers, limit_s, start_limit_s)
    return ToolBox(running.sources, running.close)


def test_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "x")
    with boxed(server(GIVEN="1"), limit_s=1.5) as box:
        tools = {tool.name: tool for tool in box.tools}
        assert tools["add"].description == "Add two numbers."
        assert tools["add"].parameters["required"] == ["a", "b"]
        result = box.run(ToolCall("add", {"a": 2, "b": 3}))
        assert result.text.startswith("5 of ")
        assert not result.is_error
        assert "GIVEN" in result.text
        assert "MY_SECRET" not in result.text  # servers get a minimal environment
        assert box.run(ToolCall("refuse")).is_error
        assert box.run(ToolCall("wait", {"seconds": 60})).text == "the tool took longer than 1.5 s"


def test_a_call_that_is_stopped_and_a_server_that_dies() -> None:
    with boxed(server()) as box:
        stopped = threading.Event()
        threading.Timer(0.2, stopped.set).start()
        assert box.run(ToolCall("wait", {"seconds": 60}), stopped.is_set).text == "the tool was stopped"
    with boxed(server()) as box:
        died = box.run(ToolCall("crash"))
        assert died.is_error
        assert died.text.startswith("the MCP server test failed: ")
        assert box.run(ToolCall("add", {"a": 1, "b": 1})).is_error


def test_what_is_no_json_is_passed_over() -> None:
    with boxed(server("chatter")) as box:
        assert box.run(ToolCall("add", {"a": 1, "b": 1})).text.startswith("2 of ")


@pytest.mark.parametrize(
    ("how", "limit_s", "words"),
    [
        ("hang", 1.0, "did not start"),
        ("die", 20.0, "it said: the database is not there"),
        ("flood", 20.0, "did not start"),
    ],
)
def test_servers_that_do_not_start(how: str, limit_s: float, words: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        boxed(server(how, name="poor"), start_limit_s=limit_s)
    assert caught.value.message.startswith("the MCP server poor did not start")
    assert words in caught.value.message


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the children of a process are read from /proc")
def test_ctrl_c_does_not_wait_for_a_server_that_hangs() -> None:
    before, started = _children(), threading.Event()

    def interrupt_once_it_runs() -> None:
        while _children() == before:
            time.sleep(0.01)
        started.set()
        os.kill(os.getpid(), signal.SIGINT)

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt_once_it_runs).start()
        began_s = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            boxed(server("hang"), start_limit_s=120.0)
    finally:
        signal.signal(signal.SIGINT, former)
    assert started.is_set()
    assert time.monotonic() - began_s < 60
    assert _children() == before


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(QwenctlError, match="did not start"):
        boxed(McpServer("none", "/no/such/program"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the children of a process are read from /proc")
def test_servers_end_with_the_box() -> None:
    before = _children()
    with boxed(server()):
        assert len(_children()) == len(before) + 1
    assert _children() == before


def _children() -> set[str]:
    """The processes that this one has started and that still run."""
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


def test_a_command_line() -> None:
    assert parse_mcp_command("npx -y 'my server' --x=1") == McpServer("npx", "npx", ("-y", "my server", "--x=1"))
    assert parse_mcp_command("/usr/bin/uvx.sh").name == "uvx"
    for text in ("", "  ", "a 'b"):
        with pytest.raises(InvalidRequest):
            parse_mcp_command(text)


def test_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(
        '{"mcpServers": {"a": {"command": "x", "args": ["1"], "env": {"K": "v"}, "cwd": "/"},'
        ' "off": {"command": "y", "disabled": true}, "b": {"command": "z"}}, "other": 1}'
    )
    assert read_mcp_config(path) == (McpServer("a", "x", ("1",), {"K": "v"}, "/"), McpServer("b", "z"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no "mcpServers"'),
        ('{"mcpServers": {"a": 1}}', "'a' of"),
        ('{"mcpServers": {"a": {"url": "https://x"}}}', "over the network"),
        ('{"mcpServers": {"a": {}}}', "has no command"),
        ('{"mcpServers": {"a": {"command": "x", "args": "1"}}}', "texts in args"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}', "texts in args"),
    ],
)
def test_configurations_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_mcp_config(path)
    assert words in caught.value.message
