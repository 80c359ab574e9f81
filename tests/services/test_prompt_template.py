"""Templates: what is a hole, what goes into it, and what is said where something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.prompt_template import PromptTemplate, read_template, template_names


def test_holes_are_filled_once() -> None:
    template = PromptTemplate("t", "{{a}} {{ b }} {{a}} {{input}} { {a} } {{1}} {{}} ${a} {% x %} {{a.b}}")
    assert template.variables == ("a", "b", "input")
    filled = template.fill({"a": "{{b}}", "b": r"\1"}, "{{a}}")
    assert filled == r"{{b}} \1 {{b}} {{a}} { {a} } {{1}} {{}} ${a} {% x %} {{a.b}}"


def test_input_without_a_hole_stands_first() -> None:
    assert PromptTemplate("t", "Summarise the text above.").fill({}, "long") == "long\n\nSummarise the text above."
    assert PromptTemplate("t", "Tell a joke.").fill({}, "") == "Tell a joke."


@pytest.mark.parametrize(
    ("text", "values", "given", "message", "hint"),
    [
        ("{{a}} {{b}} {{c}}", {"b": ""}, "", "needs a, c", "add --var a=… --var c=…"),
        ("{{language}}", {"language": "x", "langage": "y"}, "", "has no variable langage", "did you mean language?"),
        ("{{a}}", {"a": "x", "zzz": "y"}, "", "has no variable zzz", "its variables are a"),
        ("x", {"a": "x"}, "", "has no variable a", "it has no variables"),
        ("{{input}}", {"input": "x"}, "y", "has no variable input", "it has no variables"),
        ("{{input}}", {}, "", "needs input", "pipe text into it"),
    ],
)
def test_what_is_missing_is_named(text: str, values: dict[str, str], given: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        PromptTemplate("t", text).fill(values, given)
    assert hint in (caught.value.hint or "")


def test_where_templates_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "templates"
    assert template_names(folder) == []
    folder.mkdir()
    (folder / "one.txt").write_text("\ufeffkept\n")
    (folder / "two.md").write_text("two")
    (folder / ".hidden.txt").write_text("")
    (tmp_path / "one.txt").write_text("here")
    (tmp_path / "three.txt").write_text("three")
    monkeypatch.chdir(tmp_path)
    assert template_names(folder) == ["one", "two"]
    found = {name: read_template(name, folder).text for name in ("one", "one.txt", "./one.txt", "two", "three.txt")}
    assert found == {"one": "kept", "one.txt": "kept", "./one.txt": "here", "two": "two", "three.txt": "three"}
    for name, hint in (("onee", "did you mean one?"), ("zzzz", "zzzz.txt, with {{input}} in it"), ("./two", "")):
        with pytest.raises(InvalidRequest, match=f"no template {name}") as caught:
            read_template(name, folder)
        assert hint in (caught.value.hint or "")
    (folder / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match=r"bad\.txt is not UTF-8"):
        read_template("bad", folder)
    (folder / "big.txt").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(InvalidRequest, match="larger than 1 MiB"):
        read_template("big", folder)
