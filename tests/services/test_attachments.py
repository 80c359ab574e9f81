"""Files in a prompt: which, in what order, in what form; and what is said of those that are no text."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import InvalidRequest
from qwenctl.services import attached_files
from qwenctl.services.attached_files import read_attachments
from qwenctl.services.attachment import Attachment, without_attachments


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "b.py": "b = 1\n",
        "a.py": "a = 1\n",
        "sub/c.py": "c",
        "sub/deep/d.py": "d",
        "notes.md": "# N",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(*patterns: str) -> list[str]:
    return [one.name for one in read_attachments(patterns, pytest.fail)]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["b.py", "a.py"], ["b.py", "a.py"]),
        (["*.py"], ["a.py", "b.py"]),
        (["**/*.py"], ["a.py", "b.py", "sub/c.py", "sub/deep/d.py"]),
        (["sub/**"], ["sub/c.py", "sub/deep/d.py"]),
        (["notes.md", "*"], ["notes.md", "a.py", "b.py"]),
        (["./a.py", "a.py", "sub/../a.py"], ["a.py"]),
        ([], []),
    ],
)
@pytest.mark.usefixtures("folder")
def test_order_and_duplicates(patterns: list[str], found: list[str]) -> None:
    assert [os.path.normpath(name) for name in names(*patterns)] == found


def test_a_link_to_a_file_is_the_same_file(folder: Path) -> None:
    (folder / "link.py").symlink_to("a.py")
    assert names("link.py", "a.py") == ["link.py"]


def test_a_name_with_brackets_is_a_name(folder: Path) -> None:
    (folder / "x[1].txt").write_text("here")
    assert names("x[1].txt") == ["x[1].txt"]


def test_a_pipe_can_be_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=(folder / "pipe").write_text, args=("from a pipe",))
    writer.start()
    assert read_attachments(["pipe"], pytest.fail) == (Attachment("pipe", "from a pipe"),)
    writer.join()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.png", b"\x89PNG\r\n\0\0", "x.png is not text"),
        ("x.pdf", b"%PDF-1.7 text", "x.pdf is not text"),
        ("x.bin", bytes(range(128, 256)) * 9, "x.bin is not text"),
        ("x.log", b"x" * 101, "x.log is larger than 100 B"),
    ],
)
def test_what_is_no_text_is_refused_or_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, message: str
) -> None:
    if name == "x.log":
        monkeypatch.setattr(attached_files, "MAX_FILE_BYTES", 100)
    (folder / name).write_bytes(data)
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_attachments([name], pytest.fail)
    assert ("pdftotext" in (caught.value.hint or "")) == (name == "x.pdf")
    warnings: list[str] = []
    assert [one.name for one in read_attachments(["*"], warnings.append)] == ["a.py", "b.py", "notes.md"]
    assert warnings == [f"left out, because they are no text: {name}"]


def test_other_encodings(folder: Path) -> None:
    (folder / "latin.txt").write_bytes(b"caf\xe9 " + b"and much plain text around it" * 3)
    warnings: list[str] = []
    assert read_attachments(["latin.txt"], warnings.append)[0].text.startswith("caf� and")
    assert "latin.txt is not UTF-8 (byte 3)" in warnings[0]
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfhi")
    assert read_attachments(["bom.txt"], pytest.fail)[0].text == "hi"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("none.py", "none.py: No such file"), ("*.rs", "no file matches \\*.rs"), ("sub", "sub is a folder")],
)
@pytest.mark.usefixtures("folder")
def test_what_is_not_there(pattern: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_attachments([pattern], pytest.fail)
    assert caught.value.hint


def test_too_much_in_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached_files, "MAX_ALL_BYTES", 10)
    with pytest.raises(InvalidRequest, match="more than 10 B"):
        read_attachments(["*.py", "notes.md"], pytest.fail)
    assert folder.is_dir()


def test_the_form() -> None:
    assert str(Attachment("src/a.py", "x = 1\n\n")) == "File: src/a.py\n```py\nx = 1\n```"
    assert str(Attachment("a.md", "````\nx\n````\n")).startswith("File: a.md\n`````md\n")
    assert str(Attachment("a\nb.x-y", "")) == "File: a?b.x-y\n```\n\n```"


@given(st.lists(st.tuples(st.text(min_size=1), st.text("ab`\n ")), max_size=3), st.text("ab`\n F"))
def test_the_question_is_found_behind_the_files(files: list[tuple[str, str]], question: str) -> None:
    question = "Q" + question
    attached = [str(Attachment(name, text)) for name, text in files]
    assert without_attachments("\n\n".join([*attached, question])) == question
    if attached:
        assert without_attachments("\n\n".join(attached)) == ""
