"""Calls in a streamed answer: both formats, cut anywhere, broken in every way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.tools.tool_call import ToolCall, ToolFormat
from qwenctl.services.tools.tool_call_parser import Part, ToolCallParser

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "where": {"type": "object"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    },
}
PARIS = ToolCall("get_weather", {"city": "Paris"})
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
XML = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"


def parse(pieces: Sequence[str], tool_format: ToolFormat = "hermes") -> list[Part]:
    """Return all parts, neighbouring texts in one."""
    parser = ToolCallParser(tool_format, [WEATHER])
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


HERMES_CASES: list[tuple[str, list[Part]]] = [
    ("", []),
    ("Just text.\n", ["Just text.\n"]),
    ("a < b <tool> </tool_call>", ["a < b <tool> </tool_call>"]),
    ("ends in <tool_", ["ends in <tool_"]),
    (HERMES, [PARIS]),
    (f"Let me see.\n\n{HERMES}", ["Let me see.", PARIS]),
    (f"{HERMES}\n{HERMES}", [PARIS, PARIS]),
    (f"{HERMES}\n\nDone.", [PARIS, "Done."]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [ToolCall("f", {"a": 1})]),
    ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', [ToolCall("f", {"a": 1})]),
    ('<tool_call>{"name": "f"}</tool_call>', [ToolCall("f", {})]),
    ('<tool_call>{"name": "f", "arguments": ""}</tool_call>', [ToolCall("f", {})]),
    ('<tool_call>{"name": "f", "arguments": {}}}</tool_call>', [ToolCall("f", {})]),  # a brace too many
    ('<tool_call>{"name": "f", "arguments": {"t": "a\nb"}}</tool_call>', [ToolCall("f", {"t": "a\nb"})]),
    (
        '<tool_call>{"name": "f", "arguments": {"t": "</tool_call> <tool_call>"}}</tool_call>',
        [ToolCall("f", {"t": "</tool_call> <tool_call>"})],
    ),
    ('<tool_call>{"name": "f", "arguments": {}}', [ToolCall("f", {})]),  # the closing tag is missing
    (f'<tool_call>{{"name": "f", "arguments": {{}}}}\n{HERMES}', [ToolCall("f", {}), PARIS]),
    ('Look:\n<tool_call>{"name": "f", "arg', ['Look:\n<tool_call>{"name": "f", "arg']),
    ("<tool_call>{broken}</tool_call>", ["<tool_call>{broken}</tool_call>"]),
    (f"A <tool_call>[1]</tool_call> {HERMES}", ["A <tool_call>[1]</tool_call>", PARIS]),
    ('<tool_call>{"name": 3}</tool_call>', ['<tool_call>{"name": 3}</tool_call>']),
    ('<tool_call>{"name": "f", "arguments": 1}</tool_call>', ['<tool_call>{"name": "f", "arguments": 1}</tool_call>']),
    (f"<tool_call>{'[' * 100_000}</tool_call>", [f"<tool_call>{'[' * 100_000}</tool_call>"]),
]  # fmt: skip


def xml_call(**arguments: str) -> str:
    """Return a call with these arguments as Qwen3-Coder writes it."""
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function=get_weather>\n{inner}</function>\n</tool_call>"


XML_CASES: list[tuple[str, list[Part]]] = [
    (XML, [PARIS]),
    (f"I look.\n\n{XML}\n{XML}", ["I look.", PARIS, PARIS]),
    (XML.removeprefix("<tool_call>\n"), [PARIS]),  # as Qwen3-Coder does now and then
    (XML.removeprefix("<tool_call>\n") + "\nDone", [PARIS, "Done"]),
    (XML.removesuffix("\n</tool_call>"), [PARIS]),
    (XML.removesuffix("\n</parameter>\n</function>\n</tool_call>"), [PARIS]),
    (xml_call(), [ToolCall("get_weather", {})]),
    (xml_call(days="3", exact="True"), [ToolCall("get_weather", {"days": 3, "exact": True})]),
    (xml_call(where='{"x": [1]}', days="many"), [ToolCall("get_weather", {"where": {"x": [1]}, "days": "many"})]),
    (xml_call(note="null", city="1"), [ToolCall("get_weather", {"note": None, "city": "1"})]),
    (xml_call(city="a\n\n  b </parameter> <b>"), [ToolCall("get_weather", {"city": "a\n\n  b </parameter> <b>"})]),
    (xml_call(city="say </tool_call>"), [ToolCall("get_weather", {"city": "say </tool_call>"})]),
    ("<tool_call>\nnothing\n</tool_call>", ["<tool_call>\nnothing\n</tool_call>"]),
    ("#include <functional>", ["#include <functional>"]),
    ("<function=other>", ["<function=other>"]),
]


@pytest.mark.parametrize(("text", "parts"), HERMES_CASES)
def test_hermes(text: str, parts: list[Part]) -> None:
    assert parse([text]) == parts


@pytest.mark.parametrize(("text", "parts"), XML_CASES)
def test_xml(text: str, parts: list[Part]) -> None:
    assert parse([text], "xml") == parts


@given(st.data())
def test_it_does_not_matter_how_the_text_is_cut(data: st.DataObject) -> None:
    tool_format, cases = data.draw(st.sampled_from([("hermes", HERMES_CASES), ("xml", XML_CASES)]))
    text, parts = data.draw(st.sampled_from([case for case in cases if len(case[0]) < 1000]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(pieces, tool_format) == parts


@given(st.text('<tool_cal>/{}"name:argumets= \n', max_size=80), st.sampled_from(["hermes", "xml"]))
def test_no_text_is_lost(text: str, tool_format: ToolFormat) -> None:
    parts = parse(list(text), tool_format)
    shown = "".join(part for part in parts if isinstance(part, str))
    assert shown == text or any(isinstance(part, ToolCall) for part in parts)


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=3))
def test_what_is_written_is_read(name: str, arguments: dict[str, str]) -> None:
    call = ToolCall(name or "f", arguments)
    text = f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.json_arguments}}}\n</tool_call>'
    assert parse(list(text)) == [call]


@pytest.mark.parametrize(("text", "tool_format"), [(f"One.\n{HERMES}", "hermes"), (f"One.\n{XML}", "xml")])
def test_nothing_of_a_tag_is_shown_early(text: str, tool_format: ToolFormat) -> None:
    parser = ToolCallParser(tool_format, [WEATHER])
    shown = [part for character in text for part in parser.feed(character)]
    assert "".join(part for part in shown if isinstance(part, str)) == "One."
    assert shown[-1] == PARIS


def test_text_is_not_kept_waiting() -> None:
    parser = ToolCallParser("hermes")
    assert parser.feed("Hello, ") == ["Hello,"]
    assert parser.feed("world <") == [" world"]
    assert parser.feed("3") == [" <3"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": ["city"]},
        {"properties": {"city": {"anyOf": 5}}},
        {"properties": {"city": {"oneOf": None}}},
        {"properties": {"city": {"type": [["string"]]}}},
    ],
)
def test_parameters_that_are_no_schema_make_texts(parameters: Mapping[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    parser = ToolCallParser("xml", [tool])
    assert [*parser.feed(XML), *parser.finish()] == [PARIS]
