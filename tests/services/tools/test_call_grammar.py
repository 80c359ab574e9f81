"""Forced calls: what the grammar lets be written is read back as a call whose arguments satisfy the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.reply_form import ReplyForm, held_to_form
from qwenctl.services.structured.answer_validation import validate_answer
from qwenctl.services.tools.call_grammar import call_grammar
from qwenctl.services.tools.tool_call import ToolCall, ToolFormat
from qwenctl.services.tools.tool_call_parser import ToolCallParser
from qwenctl.services.tools.tool_choice import ToolChoice
from tests.services.structured.native_grammar import accepted, written

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "exact": {"type": "boolean"},
    },
    "required": ["city", "days"],
}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    """Return a tool in OpenAI's form."""
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = [tool("weather", PARAMETERS), tool("now", {"type": "object", "properties": {}})]
NOTE = tool("note", {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})


@pytest.mark.parametrize("tool_format", ["hermes", "xml"])
def test_what_is_written_is_a_call_that_satisfies_its_schema(demo_gguf: Path, tool_format: ToolFormat) -> None:
    grammar = call_grammar(TOOLS, ToolChoice("required", "weather", parallel=False), tool_format)
    texts = written(demo_gguf, grammar.gbnf, 10)
    assert texts
    for text in texts:
        parser = ToolCallParser(tool_format, TOOLS)
        parts = [*parser.feed(text), *parser.finish()]
        assert len(parts) == 1
        call = parts[0]
        assert isinstance(call, ToolCall)
        assert call.name == "weather"
        assert validate_answer(PARAMETERS, call.json_arguments) == []


def test_hermes_texts(demo_gguf: Path) -> None:
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
    other = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    several = call_grammar(TOOLS, ToolChoice("required"), "hermes").gbnf
    assert (
        accepted(demo_gguf, several, [one, f"{one}\n{other}", "", "Rome", f"{one} and more"])
        == [True, True] + [False] * 3
    )
    single = call_grammar(TOOLS, ToolChoice("required", None, parallel=False), "hermes").gbnf
    assert accepted(demo_gguf, single, [one, f"{one}\n{other}"]) == [True, False]
    either = call_grammar(TOOLS, ToolChoice(), "hermes", answer={"type": "boolean"}).gbnf
    assert accepted(demo_gguf, either, [one, "true", "1"]) == [True, True, False]


def test_text_in_xml_is_written_as_it_is(demo_gguf: Path) -> None:
    grammar = call_grammar([NOTE], ToolChoice("required"), "xml").gbnf
    inner = '<parameter=text>\na "quoted"\n\n</b> text\n</parameter>'
    good = f"<tool_call>\n<function=note>\n{inner}\n</function>\n</tool_call>"
    assert accepted(demo_gguf, grammar, [good, good.replace("\n</parameter>", "")]) == [True, False]


def test_listed_texts_in_xml(demo_gguf: Path) -> None:
    letters = {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", 1]}]}
    parameters = {"properties": {"kind": {"const": "note"}, "letter": letters}, "required": ["kind", "letter"]}
    grammar = call_grammar([tool("t", parameters)], ToolChoice("required"), "xml").gbnf
    texts = [
        f"<tool_call>\n<function=t>\n<parameter=kind>\n{kind}\n</parameter>\n"
        f"<parameter=letter>\n{letter}\n</parameter>\n</function>\n</tool_call>"
        for kind, letter in [("note", "b"), ("note", "a"), ("text", "b")]
    ]
    assert accepted(demo_gguf, grammar, texts) == [True, False, False]


def test_many_texts_in_xml_are_one_rule() -> None:
    many = {f"p{n}": {"type": "string"} for n in range(400)}
    grammar = call_grammar([tool("t", {"properties": many}), NOTE], ToolChoice("required"), "xml").gbnf
    assert grammar.count("\nraw ::= ") == 1
    assert len(grammar) < 60_000


def test_parameters_that_take_too_long_are_refused() -> None:
    steps = {"anyOf": [{"anyOf": [{"minimum": 16 * n + m} for m in range(16)]} for n in range(15)]}
    schema = {"properties": {f"p{n}": {"$ref": "#/$defs/steps"} for n in range(400)}, "$defs": {"steps": steps}}
    with pytest.raises(InvalidRequest, match="takes too long"):
        call_grammar([tool("t", schema)], ToolChoice("required"), "xml")


def test_the_form_of_a_reply() -> None:
    free, sampling = ToolChoice(), {"temperature": 0.0}
    assert held_to_form(sampling, ReplyForm(None, TOOLS, free, "hermes")) == (sampling, ())
    assert held_to_form(sampling, ReplyForm(None, TOOLS, ToolChoice("none"), None)) == (sampling, ())
    held, notes = held_to_form(sampling, ReplyForm({"uniqueItems": True}, (), free, None))
    assert held["grammar"].startswith("root ::= ")
    assert "uniqueItems" in notes[0]
    with pytest.raises(InvalidRequest, match="can be forced"):
        held_to_form(sampling, ReplyForm(None, TOOLS, ToolChoice("required"), None))
    with pytest.raises(InvalidRequest, match="excludes"):
        held_to_form({"grammar": 'root ::= "a"'}, ReplyForm({}, (), free, None))
