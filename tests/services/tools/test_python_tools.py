"""Functions of a file as tools, in their child: schemas, results, errors, and functions that do not behave."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.tools.python_tools import PythonTools
from qwenctl.services.tools.tool import ToolResult
from qwenctl.services.tools.tool_box import MAX_RESULT_CHARACTERS, ToolBox
from qwenctl.services.tools.tool_call import ToolCall

FILE = Path(__file__).with_name("weather_tools.py")


def line_of(text: str) -> int:
    """Return the number of the line of the file that holds `text`."""
    return next(n for n, line in enumerate(FILE.read_text().splitlines(), 1) if text in line)


@pytest.fixture
def box() -> Iterator[ToolBox]:
    source = PythonTools(str(FILE), 10.0)
    with ToolBox([source], source.close) as opened:
        yield opened


def test_schemas_come_from_signature_and_docstring(box: ToolBox) -> None:
    tools = {tool.name: tool for tool in box.tools}
    assert list(tools) == ["get_weather", "say", "later", "fail", "leave", "sleep", "flood", "die"]
    weather = tools["get_weather"]
    assert weather.description == "Get the weather of a city. Looks at the sky."
    assert weather.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "name of the city,"},
            "unit": {"enum": ["C", "F"], "default": "C"},
            "days": {"type": "integer", "description": "how many", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert tools["say"].parameters["properties"] == {
        "words": {"type": "array", "items": {"type": "string"}},
        "loud": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    }
    assert weather.definition["function"]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (ToolCall("get_weather", {"city": "Köln"}), ToolResult('{"city": "Köln", "unit": "C", "days": 1}')),
        (ToolCall("say", {"words": ["a", "b"]}), ToolResult("a b None")),  # what it prints
        (ToolCall("later", {"x": 2}), ToolResult("4")),
        (
            ToolCall("fail"),
            ToolResult(f"LookupError: nothing there (line {line_of('raise Look')} of weather_tools.py)", is_error=True),
        ),
        (
            ToolCall("leave"),
            ToolResult(f"SystemExit: 3 (line {line_of('raise Sys')} of weather_tools.py)", is_error=True),
        ),
        (ToolCall("die"), ToolResult("the process of the tool ended before it answered", is_error=True)),
    ],
)
def test_results(box: ToolBox, call: ToolCall, result: ToolResult) -> None:
    assert box.refusal(call) is None
    assert box.run(call) == result
    assert box.run(ToolCall("later", {"x": 1})) == ToolResult("2")  # it goes on after each of them


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("get_rain", {"city": "Rome"}), "there is no tool 'get_rain'; there are: get_weather"),
        (ToolCall("get_weather", {}), "the arguments are wrong: $: 'city' is a required property"),
        (ToolCall("get_weather", {"city": 3}), "$.city: 3 is not of type 'string'"),
        (ToolCall("get_weather", {"city": "Rome", "x": 1}), "'x' was unexpected"),
    ],
)
def test_calls_that_are_not_run(box: ToolBox, call: ToolCall, words: str) -> None:
    refusal = box.refusal(call)
    assert refusal is not None
    assert refusal.is_error
    assert words in refusal.text


def test_a_long_result_is_cut_and_says_so(box: ToolBox) -> None:
    text = box.run(ToolCall("flood", {"n": 1_000_000})).text
    assert text.startswith("x" * MAX_RESULT_CHARACTERS + "\n[")
    assert text.endswith("980,000 more characters were cut off]")


def test_what_json_or_utf8_cannot_hold_comes_through(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    file.write_text(
        "import typing\nSIZES = typing.Literal[b'S', b'L']\n"
        "def smile(size: SIZES = b'S'):\n    return '\U0001f600' * 3_000_000\n"
        "def half():\n    return 'a\\ud83d\\x00'\n"
    )
    source = PythonTools(str(file), 60.0)
    with ToolBox([source], source.close) as box:
        assert box.tools[0].parameters["properties"]["size"]["enum"] == ["b'S'", "b'L'"]
        assert box.run(ToolCall("smile")).text.startswith("\U0001f600" * 1000)
        assert box.run(ToolCall("half")).text == "a\ud83d\0"


def test_a_call_that_takes_too_long_is_ended() -> None:
    source = PythonTools(f"{FILE}:sleep", 0.3)
    with ToolBox([source], source.close) as box:
        assert [tool.name for tool in box.tools] == ["sleep"]
        late = box.run(ToolCall("sleep", {"seconds": 60}))
        assert late == ToolResult("the tool took longer than 0.3 s, and was ended", is_error=True)
        assert box.run(ToolCall("sleep", {"seconds": 0})) == ToolResult("awake")


def test_what_a_function_started_ends_with_it(tmp_path: Path) -> None:
    file, fifo = tmp_path / "t.py", tmp_path / "alive"
    file.write_text(
        f"import subprocess\ndef hang():\n    subprocess.run(['sleep', '600'], stdout=open({str(fifo)!r}, 'w'))\n"
    )
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    source = PythonTools(str(file), 1.0)
    with ToolBox([source], source.close) as box:
        assert box.run(ToolCall("hang")).is_error
    assert select.select([reader], [], [], 20)[0]  # its end: nobody holds the other side any more
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_call_that_is_stopped(box: ToolBox) -> None:
    stopped = threading.Event()
    threading.Timer(0.2, stopped.set).start()
    assert box.run(ToolCall("sleep", {"seconds": 60}), stopped.is_set).text == "the tool was stopped"


def test_a_child_that_starts_again_can_be_stopped(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    file.write_text("import os\ndef die():\n    os._exit(1)\n")
    source = PythonTools(str(file), 10.0)
    with ToolBox([source], source.close) as box:
        assert box.run(ToolCall("die")).is_error
        file.write_text("import time\ntime.sleep(600)\n")
        assert box.run(ToolCall("die"), lambda: True).text == "the tool was stopped"


def test_the_child_ends_with_the_pipe_even_in_the_midst_of_a_call(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    file.write_text("import os, time\ndef pid():\n    return os.getpid()\ndef hang():\n    time.sleep(600)\n")
    source = PythonTools(str(file), 10.0)
    box = ToolBox([source], source.close)
    pid = int(box.run(ToolCall("pid")).text)
    child = source._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.write(b'{"call": "hang", "arguments": {}}\n')
    child.stdin.close()  # as if we had died
    assert child.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    box.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "it defines no function"),
        ("def f(*a): pass\n", "cannot be given by name"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(1)\n", "SystemExit"),
        ("import no_such_module\n", "ModuleNotFoundError"),
    ],
)
def test_files_that_offer_nothing(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "t.py"
    file.write_text(text)
    with pytest.raises(QwenctlError) as caught:
        PythonTools(str(file), 10.0)
    assert words in caught.value.message


def test_files_and_functions_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        PythonTools(str(tmp_path / "missing.py"), 1.0)
    with pytest.raises(QwenctlError, match="there is no function rain"):
        PythonTools(f"{FILE}:rain", 1.0)


def test_two_tools_of_one_name_both_can_be_called(tmp_path: Path) -> None:
    sources = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.py"
        file.write_text(f"def f():\n    return '{name}'\n")
        sources.append(PythonTools(str(file), 10.0))
    with ToolBox(sources, lambda: [source.close() for source in sources] and None) as box:
        assert [(tool.name, box.run(ToolCall(tool.name)).text) for tool in box.tools] == [
            ("f", "one"),
            ("two_f", "two"),
        ]
