"""Calibration text: the shipped one, a user's files, mixing, and how both become chunks of tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from qwenctl.core import Message
from qwenctl.errors import InvalidRequest
from qwenctl.services.calibration_text import (
    SHIPPED_FOLDER,
    CalibrationText,
    Talk,
    cut_text,
    mixed,
    read_texts,
    shipped_text,
)
from qwenctl.services.calibration_tokens import to_chunks, to_tokens

ROOT = Path(__file__).resolve().parent.parent.parent
_RUN_CHARS, _LONG_RUN_CHARS = 48, 80  # as many characters in a row are no coincidence; in code, imports are alike


class Letters:
    """A vocabulary of code points; the special token of a text is one token."""

    def tokenize(self, text: str, *, parse_special: bool = True, add_special: bool = False) -> tuple[int, ...]:
        return tuple(map(ord, text.replace("<|x|>", "\0") if parse_special else text))


class Template:
    """Writes ROLE:content; for conversations with tools it fails."""

    def render(self, messages: tuple[Message, ...], *, tools: object, add_generation_prompt: bool) -> str:
        from qwenctl.errors import TemplateFailed

        assert not add_generation_prompt
        if tools:
            raise TemplateFailed("no tools")
        return "".join(f"{one.role}:{one.content}<|x|>" for one in messages)


def test_the_shipped_text_is_large_and_its_beginning_holds_something_of_everything() -> None:
    text = shipped_text()
    assert sum(len(piece) if isinstance(piece, str) else len(piece.plain) for piece in text.pieces) > 150_000
    talks = [piece for piece in text.pieces if isinstance(piece, Talk)]
    assert sum(any(one.reasoning for one in talk.messages) for talk in talks) > 50
    beginning = text.pieces[: len(text.pieces) // 6]
    plain = "\n".join(piece for piece in beginning if isinstance(piece, str))
    for sample in ("def ", "Article", "。", "、", "ы", "der ", " the ", "Proof"):
        assert sample in plain, sample
    assert any(isinstance(piece, Talk) for piece in beginning)
    assert text == shipped_text()


def test_every_file_says_where_it_comes_from() -> None:
    readme = (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")
    for path in SHIPPED_FOLDER.iterdir():
        if path.name != "README.md":
            name = "prose-*.txt" if path.name.startswith("prose-") else path.name
            assert f"`{name}`" in readme, path.name


def test_nothing_of_the_held_out_text_is_in_the_shipped_one() -> None:
    """Conversations have little to say, so what counts of those is the question."""
    tokenizer = Tokenizer.from_file(str(ROOT / "qwenctl" / "demo" / "tokenizer.json"))
    with np.load(ROOT / "tests" / "data" / "demo_reference.npz") as stored:
        rows = [tokenizer.decode(ids, skip_special_tokens=False) for ids in stored["ids"].tolist()]
        questions = {str(prompt).split("user\n")[-1].split("<|im_end|>")[0] for prompt in stored["prompts"]}
    pieces = shipped_text().pieces
    plain = "\n".join(piece if isinstance(piece, str) else piece.plain for piece in pieces)
    for row in rows[:5]:
        for start in range(0, len(row) - _RUN_CHARS, 8):
            assert row[start : start + _RUN_CHARS] not in plain
    squeezed = " ".join(plain.split())
    for path in (ROOT / "qwenctl" / "evaluation_text").glob("*.txt"):
        held_out = " ".join(path.read_text(encoding="utf-8").split())
        runs = (held_out[start : start + _LONG_RUN_CHARS] for start in range(len(held_out) - _LONG_RUN_CHARS))
        assert [run for run in runs if run in squeezed] == []
    for row in rows[5:]:
        questions |= {part.split("<|im_end|>")[0] for part in row.split("user\n")[1:]}
    asked = {one.content for piece in pieces if isinstance(piece, Talk) for one in piece.messages if one.role == "user"}
    assert len(questions) > 10
    assert questions & asked == set()


def test_text_is_cut_at_blank_lines_and_nothing_is_lost() -> None:
    text = "\n\n".join(f"{n}" * 400 for n in range(10))
    pieces = cut_text(text + "\n")
    assert [len(piece) for piece in pieces] == [1606, 1606, 802]
    assert "\n\n".join(str(piece) for piece in pieces) == text


def test_sources_are_spread_evenly() -> None:
    pieces = mixed([["a1", "a2", "a3", "a4"], ["b1", "b2"], ["c1"]])
    assert pieces == ("a1", "b1", "a2", "c1", "a3", "b2", "a4")


def test_a_users_files_are_read_in_order(tmp_path: Path) -> None:
    talk = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Ho", "reasoning_content": "Hm", "name": "x"},
        ],
        "tools": [{"type": "function"}],
    }
    (tmp_path / "b.txt").write_text("ä\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps(talk) + "\n\n", encoding="utf-8")
    text = read_texts([tmp_path / "b.txt", tmp_path / "a.jsonl"])
    messages = (Message("user", "Hi"), Message("assistant", "Ho", "Hm", {"name": "x"}))
    assert text == CalibrationText(("b.txt", "a.jsonl"), ("ä\n", Talk(messages, ({"type": "function"},))))
    assert text.pieces[1].plain == "Hi\n\nHm\n\nHo"  # type: ignore[union-attr]
    assert text.pieces[1].question == messages[:1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff", "a.txt is not UTF-8 text: byte 1"),
        ("a.jsonl", b"", "a.jsonl holds no conversations"),
        ("a.jsonl", b'{"messages": []}\n{"messages": 3}', "line 2 of .*a.jsonl is no conversation"),
        ("a.jsonl", b'{"messages": [{"role": "god", "content": ""}]}', "line 1 of .*a.jsonl is no conversation"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": 1}]}', "line 1 of .*a.jsonl is no conversation"),
        ("a.jsonl", b"[]", "line 1 of .*a.jsonl is no conversation"),
        ("a.jsonl", b"hello", "line 1 of .*a.jsonl is no conversation"),
    ],
)
def test_files_that_make_no_sense(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=message):
        read_texts([tmp_path / name])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        read_texts([tmp_path / "none.txt"])


def test_plain_text_and_conversations_become_one_stream() -> None:
    talk = Talk((Message("user", "Hi"), Message("assistant", "Ho", "Hm")))
    unfit = Talk(talk.messages, ({"type": "function"},))
    pieces = ["ab<|x|>\n\n\n", talk, unfit]
    stream = to_tokens(pieces, Letters(), Template())  # type: ignore[arg-type]
    assert "".join(map(chr, stream.tokens)) == "ab<|x|>\n\nuser:Hi\0assistant:Ho\0Hi\n\nHm\n\nHo\n\n"
    assert stream.n_plain_talks == 1
    special = to_tokens(pieces[:1], Letters(), Template(), parse_special=True)  # type: ignore[arg-type]
    assert "".join(map(chr, special.tokens)) == "ab\0\n\n"
    without = to_tokens([talk], Letters(), None)  # type: ignore[arg-type]
    assert "".join(map(chr, without.tokens)) == "Hi\n\nHm\n\nHo\n\n"
    assert len({stream.digest, special.digest, without.digest}) == 3


def test_chunks_are_whole_and_begin_as_the_model_wants() -> None:
    tokens = list(range(100, 150))
    assert [len(chunk) for chunk in to_chunks(tokens, 16, None)] == [16, 16, 16]
    assert to_chunks(tokens, 16, None)[1] == tuple(range(116, 132))
    assert to_chunks(tokens, 16, 7)[1] == (7, *range(117, 132))
    assert to_chunks(tokens, 64, 7) == ((7, *range(101, 150)),)  # all there is
    with pytest.raises(InvalidRequest, match="the text is 15 tokens long"):
        to_chunks(tokens[:15], 64, None)
