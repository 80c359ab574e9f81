"""The sink: what goes to which stream, in which mode, with which escapes."""

from __future__ import annotations

import io
import json

import pytest

from qwenctl.cli.errors import OutputClosed
from qwenctl.cli.output import Output, cut_to_cells
from qwenctl.cli.progress import LineProgress
from qwenctl.errors import QwenctlError


class Stream(io.StringIO):
    def __init__(self, terminal=False, error=None):
        super().__init__()
        self.terminal, self.error = terminal, error

    def isatty(self):
        return self.terminal

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)


def sink(terminal=False, **modes):
    return Output(stdout=Stream(terminal), stderr=Stream(terminal), **modes)


def written(output):
    return output._stdout.getvalue(), output._stderr.getvalue()


def use_all(output):
    output.line("data")
    output.table(("NAME", "SIZE"), [("中文", 5), ("ab\x1bc", 1234)], right=(1,))
    output.fields([("a", 1), ("longer", 2)])
    output.note("a note")
    output.warning("careful")
    output.error("broken", "mend it")
    output.aside("thinking")
    with output.progress("working", 10) as bar:
        bar.update(5)


def test_data_and_notes_go_their_own_ways():
    output = sink()
    use_all(output)
    stdout, stderr = written(output)
    assert stdout == "data\nNAME  SIZE\n中文     5\nab c  1234\na       1\nlonger  2\n"
    assert stderr == "a note\nwarning: careful\nerror: broken\nhint: mend it\nthinking"


def test_quiet_drops_notes_and_progress_but_no_warning():
    output = sink(terminal=True, quiet=True, plain=True)
    use_all(output)
    assert written(output)[1] == "warning: careful\nerror: broken\nhint: mend it\nthinking"


def test_escapes_on_terminals_only_and_never_when_plain():
    styled, plain, piped = sink(terminal=True), sink(terminal=True, plain=True), sink()
    for output in (styled, plain, piped):
        use_all(output)
    assert all("\x1b[" in text for text in written(styled))
    assert not any("\x1b" in text for text in written(plain) + written(piped))


def test_a_models_text_is_cleaned_for_terminals_and_left_alone_in_pipes():
    terminal, piped = sink(terminal=True, plain=True), sink()
    for output in (terminal, piped):
        output.stream("a\x1b[2Jb")
        output.report("c\x07d")
    assert written(terminal) == ("a[2Jb", "cd\n")
    assert written(piped) == ("a\x1b[2Jb", "c\x07d\n")


def test_json_is_one_document_with_readable_text():
    output = sink(json_mode=True)
    output.data({"text": "Grüße 中文"})
    assert json.loads(written(output)[0]) == {"text": "Grüße 中文"}
    assert "Grüße 中文" in written(output)[0]


def test_what_happens_when_nobody_reads():
    with pytest.raises(OutputClosed):
        Output(stdout=Stream(error=BrokenPipeError(32, "Broken pipe"))).line("x")
    with pytest.raises(QwenctlError, match="cannot write to standard output: No space left"):
        Output(stdout=Stream(error=OSError(28, "No space left on device"))).line("x")
    Output(stderr=Stream(error=BrokenPipeError(32, "Broken pipe"))).warning("dropped, not raised")


def test_progress_in_a_log_is_a_line_now_and_then():
    lines, now = [], [0.0]
    bar = LineProgress(lines.append, "converting", 100, "{:.0f} kB".format, clock=lambda: now[0])
    for second, done in ((0, 20), (1, 25), (5, 40), (6, 45), (10, 60)):
        now[0] = float(second)
        bar.update(done, "blk.3")
    assert lines == [
        "converting  40% · 40 kB of 100 kB · 15 s left · blk.3\n",
        "converting  60% · 60 kB of 100 kB · 10 s left · blk.3\n",
    ]
    bar.update(70, total=200)
    now[0] = 20.0
    bar.update(100)
    assert lines[2] == "converting  50% · 100 kB of 200 kB · 25 s left\n"


def test_progress_on_a_terminal_leaves_nothing_behind():
    output = sink(terminal=True)
    with output.progress("working", 10) as bar:
        bar.update(5, "half [way]")
    stderr = written(output)[1]
    assert "working" in stderr
    assert stderr.endswith("\x1b[2K")  # taken away


@pytest.mark.parametrize(
    ("text", "n_cells", "cut"),
    [("short", 5, "short"), ("longer", 5, "long…"), ("天空为什么", 6, "天空…"), ("ab cd", 4, "ab…"), ("x", 0, "…")],
)
def test_text_is_cut_to_cells(text, n_cells, cut):
    assert cut_to_cells(text, n_cells) == cut
