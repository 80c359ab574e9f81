"""Lines of native code: put together, kept, found again."""

from __future__ import annotations

from qwenctl.services.native_log import CONTINUED, ERROR, LogLine, NativeLog, bare_text


def test_pieces_become_lines_with_the_level_of_the_first() -> None:
    log = NativeLog()
    log.take(ERROR, "load: error ")
    log.take(CONTINUED, "loading model: bad magic\nnext")
    log.take(CONTINUED, "\n")
    log.take(1, "info\n")
    assert log.lines == (
        LogLine(0, ERROR, "load: error loading model: bad magic"),
        LogLine(1, ERROR, "next"),
        LogLine(2, 1, "info"),
    )


def test_errors_since_a_moment() -> None:
    log = NativeLog()
    log.take(ERROR, "old\n")
    n_lines = log.n_lines
    log.take(ERROR, "llama_model_load: error loading model: check_tensor_dims: tensor 'x' not found\n")
    log.take(3, "a warning\n")
    assert log.errors_since(n_lines) == ["tensor 'x' not found"]


def test_only_the_last_lines_are_kept() -> None:
    log = NativeLog()
    for number in range(1000):
        log.take(1, f"{number}\n")
    assert log.n_lines == 1000
    assert [log.lines[0].text, log.lines[-1].text] == ["600", "999"]


def test_lines_can_be_forwarded() -> None:
    log, seen = NativeLog(), []
    log.forward = seen.append
    log.take(ERROR, "one\ntwo")
    assert [line.text for line in seen] == ["one"]


def test_names_of_functions_are_dropped_and_nothing_else() -> None:
    assert (
        bare_text("llama_model_load: error loading model: invalid split file: x.gguf") == "invalid split file: x.gguf"
    )
    assert bare_text("llama_kv_cache::init: failed to allocate") == "failed to allocate"
    assert bare_text("No such file: maybe") == "No such file: maybe"
