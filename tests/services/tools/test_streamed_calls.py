"""Calls whose arguments stream: cut anywhere, the same calls as when they come whole; what becomes of broken ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.tools.call_parts import ArgumentsPiece, CallBegun, CallEnded, Part
from qwenctl.services.tools.tool_call import ToolCall, ToolFormat
from qwenctl.services.tools.tool_call_parser import ToolCallParser

PROPERTIES = {"path": {"type": "string"}, "n": {"type": "integer"}, "deep": {"type": "object"}}
WRITE = {"type": "function", "function": {"name": "write", "parameters": {"properties": PROPERTIES}}}
FORMATS: list[ToolFormat] = ["hermes", "xml"]
HERMES = '<tool_call>\n{"name": "write", "arguments": '
XML = "<tool_call>\n<function=write>\n"


@dataclass
class Streamed:
    """A call put together by who receives its pieces."""

    name: str
    pieces: list[str]
    is_whole: bool | None = None

    @property
    def json(self) -> str:
        return "".join(self.pieces)


def fed(parser: ToolCallParser, pieces: Sequence[str]) -> list[Part]:
    return [part for piece in pieces for part in parser.feed(piece)]


def put_together(parts: Sequence[Part]) -> list[Any]:
    """Return texts, joined, and calls."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, CallBegun):
            found.append(Streamed(part.name, []))
        elif isinstance(part, ArgumentsPiece):
            assert found[-1].is_whole is None
            found[-1].pieces.append(part.json)
        elif isinstance(part, CallEnded):
            assert found[-1].is_whole is None
            found[-1].is_whole = part.is_whole
        elif isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def stream(pieces: Sequence[str], tool_format: ToolFormat, *, cut: bool = False) -> list[Any]:
    parser = ToolCallParser(tool_format, [WRITE], streams=True)
    return put_together([*fed(parser, pieces), *parser.finish(cut=cut)])


def whole(text: str, tool_format: ToolFormat, *, cut: bool = False) -> list[Any]:
    """Return what comes of it where nothing streams."""
    parser = ToolCallParser(tool_format, [WRITE])
    return put_together([*parser.feed(text), *parser.finish(cut=cut)])


def as_calls(found: Sequence[Any]) -> list[Any]:
    """Streamed calls as calls, each of which must be whole; halves of surrogate pairs as clients get them."""
    calls: list[Any] = []
    for one in found:
        if isinstance(one, Streamed | ToolCall):
            assert isinstance(one, ToolCall) or one.is_whole
            arguments = one.json_arguments if isinstance(one, ToolCall) else one.json
            calls.append(ToolCall(one.name, json.loads(arguments.encode("utf-8", "replace"))))
        else:
            calls.append(one)
    return calls


def flat(found: Sequence[Any]) -> list[Any]:
    """Without how a call was cut."""
    return [(one.name, one.json, one.is_whole) if isinstance(one, Streamed) else one for one in found]


@st.composite
def cut_up(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=20)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([HERMES, '{"path', '": "a\n', 'b', '\\', 'n"}', "}", "\n</tool_call>"],
         [[], [], [CallBegun("write"), ArgumentsPiece('{"path": "a\\n')], [ArgumentsPiece("b")], [],
          [ArgumentsPiece('\\n"')], [ArgumentsPiece("}")], [CallEnded(is_whole=True)]]),
        ([XML + "<parameter=path>\na\n", 'b"', "\n</par", "am>", "\n</parameter>", "\n</function>", "</tool_call>."],
         [[CallBegun("write"), ArgumentsPiece('{"path": "a')], [ArgumentsPiece('\\nb\\"')], [],
          [ArgumentsPiece("\\n</param>")], [], [ArgumentsPiece('"}'), CallEnded(is_whole=True)], ["."]]),
        ([XML + "<parameter=n>", "\n1", "2\n</parameter>\n<", "parameter=path>\n"],
         [[CallBegun("write")], [ArgumentsPiece('{"n": ')], [], [ArgumentsPiece('12, "path": "')]]),
        (["<function=write>\n<parameter=path>", "a</parameter></function>"],
         [[CallBegun("write")], [ArgumentsPiece('{"path": "a"}'), CallEnded(is_whole=True)]]),
    ],
)  # fmt: skip
def test_arguments_come_as_they_are_written(pieces: list[str], parts: list[list[Part]]) -> None:
    parser = ToolCallParser("xml" if "=write" in pieces[0] else "hermes", [WRITE], streams=True)
    assert [parser.feed(piece) for piece in pieces] == parts


CALL = ToolCall("write", {"path": "a"})
READ = ToolCall("read", {"path": "a"})


@pytest.mark.parametrize(
    ("text", "tool_format", "call"),
    [
        ('<tool_call>{"arguments": {"path": "a"}, "name": "write"}</tool_call>', "hermes", CALL),
        ('<tool_call>{"name": "write", "arguments": "{\\"path\\": \\"a\\"}"}</tool_call>', "hermes", CALL),
        ('<tool_call>{"id": 1, "name": "write", "arguments": {"path": "a"}}</tool_call>', "hermes", CALL),
        ('<tool_call>{"name": "read", "arguments": {"path": "a"}}</tool_call>', "hermes", READ),
        ('<tool_call>{"name": "write"}</tool_call>', "hermes", ToolCall("write")),
        ('<tool_call>{"name": "write", "arguments": {}}</tool_call>', "hermes", ToolCall("write")),
        ("<tool_call><function=read><parameter=path>a</parameter></function></tool_call>", "xml", READ),
        ("<tool_call><function=write></function></tool_call>", "xml", ToolCall("write")),
    ],
)  # fmt: skip
def test_other_calls_come_whole(text: str, tool_format: ToolFormat, call: ToolCall) -> None:
    parser = ToolCallParser(tool_format, [WRITE], streams=True)
    assert fed(parser, list(text)) == [call]


@pytest.mark.parametrize("tail", ["", "}", "</tool", "}}\n</tool_call>", "\n</tool_call>\n"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_call_is_whole_once_its_object_is(tail: str, cut: bool) -> None:
    found = stream(list(HERMES + '{"path": "a"}}' + tail), "hermes", cut=cut)
    assert flat(found) == [("write", '{"path": "a"}', True)]


@pytest.mark.parametrize(
    ("text", "json_text"),
    [
        (HERMES + '{"n": 12', '{"n": '),
        (HERMES + '{"path": "a\\', '{"path": "a'),
        (HERMES + '{"path": "a"}', '{"path": "a"'),
        (HERMES + '{"path": "a"}, "id": 1', '{"path": "a"'),
        (XML + "<parameter=path>\na\n</parameter>\n", '{"path": "a'),
        (XML + "<parameter=path>\na\n</parameter>\n<parameter=", '{"path": "a"'),
        (XML + "<parameter=n>\n12", '{"n": '),
    ],
)
def test_a_call_that_is_cut_keeps_what_was_streamed(text: str, json_text: str) -> None:
    assert flat(stream(list(text), "xml" if "=write" in text else "hermes", cut=True)) == [("write", json_text, False)]


@pytest.mark.parametrize("end", ["", "\n", "\n</parameter>", "\n</parameter>\n</function>", "\n</tool_call>"])
def test_a_model_that_forgets_closing_tags_has_still_called(end: str) -> None:
    assert flat(stream(list(XML + "<parameter=path>\na" + end), "xml")) == [("write", '{"path": "a"}', True)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HERMES + '{"path": "say "hi""}}\n</tool_call>', [("write", '{"path": "say "', False), 'hi""}}\n</tool_call>']),
        (HERMES + '{"n": 01}}', [("write", '{"n": ', False), "01}}"]),
        (HERMES + '{"n": 1}\n</tool_call>', [("write", '{"n": 1', False), "}\n</tool_call>"]),  # a brace too few
        (HERMES + '{"n": 1}, "name": "b"}.', [("write", '{"n": 1', False), '}, "name": "b"}.']),
        (XML + "<parameter=n>1</parameter><parameter=>", [("write", '{"n": 1', False), "<parameter=>"]),
        (
            HERMES + '{"n": 1]\n' + HERMES + '{"n": 2}}</tool_call>',
            [("write", '{"n": 1', False), "]", ("write", '{"n": 2}', True)],
        ),
    ],
)
def test_what_breaks_off_goes_on_as_text(text: str, found: list[Any]) -> None:
    assert flat(stream(list(text), "xml" if "=write" in text else "hermes")) == found


@pytest.mark.parametrize("inside", ["{...}}", '{"path": <path>}}', "<args>}", "{…}}\n</tool_call> and so on", "[]}"])
def test_a_call_that_is_only_shown_stays_text(inside: str) -> None:
    assert stream(list(f"I would write {HERMES}{inside}"), "hermes") == [f"I would write {HERMES}{inside}"]


def test_what_stands_in_the_way_of_json_alone_does_not_break_a_call() -> None:
    assert flat(stream([HERMES + '{"a": 1, "a": 2}, "id": {"name": 1}}}\n</tool_call> Done'], "hermes")) == [
        ("write", '{"a": 1, "a": 2}', True), "Done",
    ]  # fmt: skip


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n<>/{}'), max_size=30
) | st.sampled_from(
    [
        "</tool_call>",
        "<tool_call>",
        "a</parameter>b",
        "</parameter>\n",
        "<parameter=n>",
        "</function>",
        "\ud83d",
        "\n\n",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def hermes_calls(draw: st.DrawFn) -> str:
    """A call as models write it, and as they may."""
    arguments = json.dumps(
        draw(st.dictionaries(TEXTS, VALUES, max_size=4)),
        ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2])),
    )  # fmt: skip
    if draw(st.booleans()):
        arguments = arguments.replace("\\n", "\n")  # real line breaks; after a backslash: another text, or no JSON
    if draw(st.booleans()):
        arguments = '{"twice": 1, "twice": {"x": 2}' + (", " if arguments != "{}" else "") + arguments[1:]
    gap = draw(st.sampled_from(["", " ", "\n"]))
    key = draw(st.sampled_from(["arguments", "parameters"]))
    more = draw(st.sampled_from(["", f',{gap}"id": "a}}{{"', ', "type": {"b": [1]}']))
    name = draw(st.sampled_from(['"write"', '"other"']))
    call = f'{gap}{{{gap}"name"{gap}:{gap}{name},{gap}"{key}":{gap}{arguments}{gap}{more}}}'
    return "<tool_call>" + call + draw(st.sampled_from(["", "}", gap, "}\n}"])) + "</tool_call>"


@st.composite
def xml_calls(draw: st.DrawFn) -> str:
    """A call in tags."""
    values = draw(st.lists(st.tuples(st.sampled_from(["path", "n", "deep", "other"]), TEXTS), min_size=1, max_size=4))
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values)
    call = f"<function=write>\n{inner}</function>"
    return call if draw(st.booleans()) else f"<tool_call>\n{call}\n</tool_call>"


@given(st.data())
def test_streamed_or_whole_it_is_the_same_call(data: st.DataObject) -> None:
    tool_format = data.draw(st.sampled_from(FORMATS))
    calls = data.draw(st.lists(hermes_calls() if tool_format == "hermes" else xml_calls(), min_size=1, max_size=3))
    text = data.draw(st.sampled_from(["", "I look.\n"])) + "\n".join(calls) + data.draw(st.sampled_from(["", " Done."]))
    expected = whole(text, tool_format)
    found = stream(data.draw(cut_up(text)), tool_format)
    if sum(isinstance(one, ToolCall) for one in expected) == len(calls):
        assert as_calls(found) == as_calls(expected)
    else:  # a call that is none, or two that read as one
        assert any(isinstance(one, str) or not one.is_whole for one in found if not isinstance(one, ToolCall))


TOKENS = [
    "<tool_call>", "</tool_call>", '{"name": "write", "arguments": ', '"parameters"', "{", "}", '"', ":", ",", "\\",
    "1", "\n", " ", "a", "<function=write>", "</function>", "<parameter=path>", "<parameter=n>", "</parameter>", "<",
    ">", "\\u12",
]  # fmt: skip


@st.composite
def texts_like_calls(draw: st.DrawFn, tool_format: ToolFormat) -> str:
    """A call, whole or broken, or what only looks a little like one."""
    if draw(st.booleans()):
        return "".join(draw(st.lists(st.sampled_from(TOKENS), max_size=30)))
    call = draw(hermes_calls() if tool_format == "hermes" else xml_calls())
    begin, n = draw(st.integers(0, len(call))), draw(st.integers(0, 10))
    return call[:begin] + draw(st.sampled_from(["", *TOKENS])) + call[begin + n :]


@given(st.sampled_from(FORMATS), st.booleans(), st.data())
def test_every_piece_leaves_the_client_with_the_beginning_of_json(
    tool_format: ToolFormat, cut: bool, data: st.DataObject
) -> None:
    text = data.draw(texts_like_calls(tool_format))
    for one in stream(data.draw(cut_up(text)), tool_format, cut=cut):
        if isinstance(one, Streamed):
            for n in range(1, len(one.pieces) + 1):
                so_far = "".join(one.pieces[:n])
                jiter.from_json(so_far.encode("utf-8", "replace"), partial_mode=True)
                assert n == len(one.pieces) or not is_json(so_far)
            assert is_json(one.json) == one.is_whole


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(st.sampled_from(FORMATS), st.booleans(), st.data())
def test_it_does_not_matter_how_any_text_is_cut(tool_format: ToolFormat, cut: bool, data: st.DataObject) -> None:
    text = data.draw(texts_like_calls(tool_format))
    found = stream(data.draw(cut_up(text)), tool_format, cut=cut)
    assert flat(found) == flat(stream([text], tool_format, cut=cut))
    if not any(isinstance(one, Streamed) for one in found):
        assert found == whole(text, tool_format, cut=cut)
