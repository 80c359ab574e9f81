"""Telling the model from the prompt, and what standard input adds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.cli import prompt_input
from qwenctl.cli.prompt_input import Asked, ordered, read_prompt, read_text, tell_apart, text_or_file
from qwenctl.errors import InvalidRequest, ModelNotFound, QwenctlError
from qwenctl.services.demo_conversion import convert_demo
from qwenctl.services.demo_file import converted_demo
from qwenctl.services.model_store import find_model, list_models, model_not_found
from qwenctl.settings import Settings


@pytest.fixture
def store(tmp_path):
    settings = Settings(data_dir=tmp_path, cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")
    settings.models_dir.mkdir()
    (settings.models_dir / "qwen3-30b.gguf").write_bytes(b"GGUF")
    return settings


class FakeStdin(io.TextIOWrapper):
    def __init__(self, data, terminal=False):
        super().__init__(io.BytesIO(data))
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def read(monkeypatch, prompt, data=b"", terminal=False):
    warnings = []
    monkeypatch.setattr("sys.stdin", FakeStdin(data, terminal))
    return read_prompt(prompt, warnings.append), warnings


def test_of_two_words_the_first_is_the_model(store):
    assert tell_apart(["anything", "Why?"], store) == Asked("anything", "Why?")


def test_a_prompt_without_quotes_is_a_usage_error(store):
    with pytest.raises(InvalidRequest, match="5 words") as caught:
        tell_apart(["why", "is", "the", "sky", "blue"], store)
    assert "quote the prompt" in caught.value.hint


def test_a_single_word_is_a_model_if_there_is_one_of_that_name(store, tmp_path, monkeypatch):
    assert tell_apart(["qwen3-30b"], store) == Asked("qwen3-30b", None)
    assert tell_apart(["qwen3-30b.gguf"], store) == Asked("qwen3-30b.gguf", None)
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    assert tell_apart([str(path)], store) == Asked(str(path), None)
    assert tell_apart(["Why is the sky blue?"], store) == Asked(None, "Why is the sky blue?")
    assert tell_apart(["hello"], store) == Asked(None, "hello")
    assert tell_apart(["-"], store) == Asked(None, "-")
    assert tell_apart([], store) == Asked(None, None)


@pytest.mark.parametrize("word", ["missing.gguf", "./missing", "/no/such/file", "~/model", "model.safetensors"])
def test_a_single_word_that_looks_like_a_file_must_be_one(store, word):
    with pytest.raises(ModelNotFound, match="no model"):
        tell_apart([word], store)


@pytest.mark.parametrize("text", ["/think about ~/x.gguf files", "what is in ./here ?", "README"])
def test_sentences_are_prompts_even_with_paths_in_them(store, text):
    assert tell_apart([text], store) == Asked(None, text)


@pytest.mark.parametrize(
    "text", ["a long prompt " * 30, "为什么天空是蓝色的" * 20, f"a/{'b' * 300}", "~5 km in miles", "~no-such-user/x"]
)
def test_no_prompt_is_too_long_or_too_odd_for_a_file_name(store, text):
    assert tell_apart([text], store) == Asked(None, text)


def test_prompt_and_pipe_combine(monkeypatch):
    assert read(monkeypatch, "Summarize this.", b"some\ntext\n") == ("some\ntext\n\nSummarize this.", [])
    assert read(monkeypatch, None, b"question\r\n") == ("question", [])
    assert read(monkeypatch, "-", b"question\n") == ("question", [])
    assert read(monkeypatch, "alone", b"") == ("alone", [])
    assert read(monkeypatch, "alone", b" \n") == ("alone", [])


def test_documents_come_before_the_question(monkeypatch):
    monkeypatch.setattr("sys.stdin", FakeStdin(b"piped\n"))
    assert read_prompt("Compare them.", print, ["one", "two"]) == "one\n\ntwo\n\npiped\n\nCompare them."
    assert ordered(["a document"], " ") == "a document"
    monkeypatch.setattr("sys.stdin", FakeStdin(b"", terminal=True))
    assert read_prompt(None, print, ["a file alone"]) == "a file alone"


def test_two_questions_about_a_document_begin_alike(monkeypatch):
    document = "many words " * 50
    prompts = [read(monkeypatch, question, document.encode())[0] for question in ("Why?", "Where to?")]
    assert all(prompt.startswith(document.strip()) for prompt in prompts)


def test_a_terminal_is_never_read(monkeypatch):
    assert read(monkeypatch, "typed", b"not read", terminal=True) == ("typed", [])
    for prompt in (None, "-"):
        with pytest.raises(InvalidRequest, match="standard input is a terminal"):
            read(monkeypatch, prompt, terminal=True)


@pytest.mark.parametrize(("prompt", "data"), [(None, b""), ("", b"\n\n"), ("  ", b"")])
def test_no_prompt_is_a_usage_error(monkeypatch, prompt, data):
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        read(monkeypatch, prompt, data)


def test_bytes_that_are_not_utf8_are_replaced_with_a_warning(monkeypatch):
    text, warnings = read(monkeypatch, None, b"caf\xe9 cr\xe8me")
    assert text == "caf� cr�me"
    assert warnings == ["standard input is not UTF-8 (byte 3); what cannot be read is replaced by �"]


def test_byte_order_mark_is_dropped():
    assert read_text(io.BytesIO(b"\xef\xbb\xbfhi\n"), print) == "hi"


def test_endless_input_is_refused(monkeypatch):
    monkeypatch.setattr(prompt_input, "MAX_INPUT_BYTES", 10)
    with pytest.raises(InvalidRequest, match="more than"):
        read_text(io.BytesIO(b"x" * 11), print)


def test_text_from_a_file(tmp_path):
    (tmp_path / "system.txt").write_text("Be brief.\n")
    assert text_or_file(f"@{tmp_path}/system.txt") == "Be brief."
    assert text_or_file("plain") == "plain"
    assert text_or_file(None) is None
    with pytest.raises(InvalidRequest, match="No such file"):
        text_or_file(f"@{tmp_path}/missing")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        text_or_file(f"@{tmp_path}/latin")


def test_models_by_name(store):
    assert [model.name for model in list_models(store)] == ["qwen3-30b"]
    assert find_model("qwen3-30b", store) == store.models_dir / "qwen3-30b.gguf"
    assert find_model("../models/qwen3-30b", store) is None  # a name never leaves the folder
    assert find_model("qwen", store) is None


def test_what_is_said_of_a_model_that_is_not_there(store, tmp_path):
    assert model_not_found("qwen3-03b", store).hint == "did you mean qwen3-30b?"
    assert "neither a GGUF file nor a name" in model_not_found("zzz", store).message
    checkpoint = tmp_path / "Qwen3-0.6B"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"")
    for given in (checkpoint, checkpoint / "model.safetensors"):
        error = model_not_found(str(given), store)
        assert "Hugging Face checkpoint" in error.message
        assert error.hint == f"convert it: qwenctl convert {checkpoint} Qwen3-0.6B"
    with pytest.raises(ModelNotFound, match="Hugging Face"):
        tell_apart([str(checkpoint)], store)


def test_a_folder_without_checkpoint_is_no_reason_to_refuse_a_prompt(store, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    assert tell_apart(["tests"], store) == Asked(None, "tests")


def test_home_is_expanded(store, home):
    Path(home / "m.gguf").write_bytes(b"GGUF")
    assert find_model("~/m.gguf", store) == home / "m.gguf"


def test_the_demo_is_converted_once_for_each_version(store, tiny_moe_folder, monkeypatch):
    assert converted_demo(store, tiny_moe_folder) is None
    path = convert_demo(store, lambda _: None, tiny_moe_folder)
    assert path.parent == store.cache_dir
    assert path.read_bytes()[:4] == b"GGUF"
    assert converted_demo(store, tiny_moe_folder) == path
    monkeypatch.setattr("qwenctl.__version__", "9.9.9")
    assert converted_demo(store, tiny_moe_folder) is None
    newer = convert_demo(store, lambda _: None, tiny_moe_folder)
    assert newer != path
    assert {found.name.split(".gguf")[0] for found in store.cache_dir.iterdir()} == {newer.stem}


def test_an_installation_without_the_demo_says_so(store, tmp_path):
    with pytest.raises(ModelNotFound, match="the bundled demo is not in"):
        convert_demo(store, print, tmp_path)
    assert converted_demo(store, tmp_path) is None


def test_a_cache_that_cannot_be_made_is_one_line(store, tmp_path, tiny_moe_folder):
    (tmp_path / "file").write_text("")
    blocked = replace(store, cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(QwenctlError, match="cannot make the cache folder"):
        convert_demo(blocked, lambda _: None, tiny_moe_folder)
