"""The chat on a pseudo-terminal, with a model that says what it is told. What counts is what the screen shows."""

from __future__ import annotations

import fcntl
import json
import re
import stat
import sys
import termios
import time
from base64 import b64encode
from functools import partial

import pytest

from qwenctl.cli.chat.context_use import context_use
from qwenctl.cli.chat.line_input import LineInput
from qwenctl.cli.chat.screen import Meter
from qwenctl.cli.chat.terminal_screen import TerminalScreen
from qwenctl.cli.output import Output
from qwenctl.services.conversation import Conversation, Exchange
from tests.cli.job_shell import run_as_job
from tests.cli.scripted_chat import scripted_chat
from tests.cli.terminal import Terminal

ENTER, CTRL_C, CTRL_D, ALT_ENTER, CTRL_J, TAB, UP = "\r", "\x03", "\x04", "\x1b\r", "\n", "\t", "\x1b[A"
CTRL_A, CTRL_O, CTRL_Z = "\x01", "\x0f", "\x1a"
METER = re.compile(r"tokens( of context| \(\d+%[^()]*\)\]?)$")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLS = [["I look. ", CALL], ["It is warm."]]
WEATHER = ("tests/services/tools/weather_tools.py:get_weather",)
PLAIN_PROMPT = re.compile(r"^>$", re.MULTILINE)


def words(text):
    return [word + " " for word in text.split(" ")]


@pytest.fixture
def chat(tmp_path):
    """Return `chat(*replies, **script)`: a chat on a terminal whose model gives `replies`, each a list of pieces."""
    opened = []

    def start(*replies, kind="terminal", history=None, rows=30, columns=80, as_job=False, env=None, tools=(), **script):
        record = tmp_path / "prompts.json"
        script["replies"] = replies
        program = partial(scripted_chat, kind, record, history, script, tools=tools)
        program = partial(run_as_job, program) if as_job else program
        terminal = Terminal(program, rows=rows, columns=columns, env=env).__enter__()
        opened.append(terminal)
        terminal.prompts = lambda: json.loads(record.read_text())
        wait_ready(terminal, kind)
        return terminal

    yield start
    for terminal in opened:
        terminal.__exit__()


def wait_ready(terminal, kind="terminal"):
    """Wait for an input line: the meter is the last thing on the screen. What is typed before may get lost."""
    terminal.wait_for(METER.search if kind == "terminal" else PLAIN_PROMPT.search)


def take_turn(terminal, text, expected):
    """Type a turn, wait for what it brings, and for the next input line."""
    terminal.send(text + ENTER)
    terminal.wait_for(expected)
    wait_ready(terminal)


def lines_of(terminal):
    return [line for line in terminal.text.split("\n") if line.strip()]


def test_reasoning_is_folded_and_markdown_is_drawn(chat):
    thoughts = ["<think>\n", *words("The user greets me. I greet back."), "\n</think>\n\n"]
    answer = words("Here is **bold** and 中文:\n\n- one\n- two\n\n```python\nprint('hi')\n```\n\nDone.")
    terminal = chat([*thoughts, *answer])
    take_turn(terminal, "Hello there", "Done.")
    shown = lines_of(terminal)
    assert shown[0] == "> Hello there"
    assert shown[1].startswith("▸ thought for ")
    assert shown[1].endswith("7 tokens · Ctrl-O shows it")
    assert shown[2:9] == ["Here is bold and 中文:", " • one", " • two", "```python", "print('hi')", "```", "Done."]
    assert "greets me" not in terminal.text  # folded
    assert b"\x1b[1mbold" in terminal.raw
    take_turn(terminal, "/reasoning", "The user greets me. I greet back.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0


def test_thinking_shows_how_far_it_is(chat):
    terminal = chat(["<think>\n", *words("slow thoughts " * 200)], seconds_per_step=0.02)
    terminal.send("Hello" + ENTER)
    terminal.wait_for("thinking… 9 tokens")
    assert "slow thoughts" in terminal.text
    terminal.send(CTRL_C)
    terminal.wait_for("stopped; what there is was kept")
    assert "thought for" in terminal.text
    assert "^C" not in terminal.text


def test_ctrl_c_stops_the_answer_and_keeps_the_turn(chat):
    terminal = chat(words("never ending " * 500), ["Short."], seconds_per_step=0.01)
    terminal.send("Go on for ever" + ENTER)
    terminal.wait_for("never ending never ending")
    terminal.send(CTRL_C)
    terminal.wait_for("stopped; what there is was kept")
    wait_ready(terminal)
    take_turn(terminal, "And now?", "Short.")
    terminal.send("/exit" + ENTER)
    assert terminal.wait_exit() == 0
    assert "Go on for ever" in terminal.prompts()[1]
    assert "never ending never ending" in terminal.prompts()[1]


def test_what_is_typed_while_an_answer_runs_comes_next(chat):
    terminal = chat(words("slow answer " * 20), ["Second."], seconds_per_step=0.02)
    terminal.send("first" + ENTER)
    terminal.wait_for("slow answer slow")
    terminal.send("second" + ENTER + CTRL_D)
    assert terminal.wait_exit() == 0
    assert terminal.text.count("second") == 1  # not echoed into the answer
    assert "second<|im_end|>" in terminal.prompts()[1]


def test_lines_typed_ahead_are_sent_one_by_one(chat):
    terminal = chat(["One."], ["Two."], ["Three."])
    terminal.send("first" + ENTER + "/stats" + ENTER + "/help" + ENTER + "second" + ENTER + "a" + CTRL_J + "b" + ENTER)
    terminal.wait_for("Three.")
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert [prompt.count("<|im_start|>user") for prompt in terminal.prompts()] == [1, 2, 3]
    assert "a\nb<|im_end|>" in terminal.prompts()[2]


def test_a_paste_while_an_answer_runs_stays_one_turn(chat):
    terminal = chat(words("slow answer " * 20), ["Second."], seconds_per_step=0.02)
    terminal.send("first" + ENTER)
    terminal.wait_for("slow answer slow")
    assert terminal.raw.rpartition(b"\x1b[?2004")[2][:1] == b"h"  # the terminal marks pastes
    terminal.send("\x1b[200~two\rlines\x1b[201~" + ENTER)
    terminal.wait_for("Second.")
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "two\nlines<|im_end|>" in terminal.prompts()[1]


def test_a_key_shows_all_of_the_thoughts_while_they_come(chat):
    thoughts = [f"Thought {number}.\n" for number in range(40)]
    terminal = chat(["<think>\n", *thoughts, "\n</think>\n\n", "Done."], seconds_per_step=0.08)
    terminal.send("Hello" + ENTER)
    terminal.wait_for("Thought 5.")
    assert "Thought 1." not in terminal.text
    terminal.send(CTRL_O)
    terminal.wait_for("Ctrl-O folds it")
    terminal.wait_for("Done.")
    wait_ready(terminal)
    shown = lines_of(terminal)
    assert [line for line in shown if line.startswith("Thought")] == [f"Thought {number}." for number in range(40)]
    assert sum("thought for" in line for line in shown) == 1
    assert not any("Ctrl-O" in line for line in shown)


def test_a_key_ends_the_thinking_at_once(chat):
    thoughts = words("endless thoughts " * 500)
    terminal = chat(["<think>\n", *thoughts, "</think>", "An answer."], seconds_per_step=0.02)
    terminal.send("Hello" + ENTER)
    terminal.wait_for("Ctrl-A answers now")
    terminal.send("typed ahead" + CTRL_A)
    terminal.wait_for("An answer.")
    wait_ready(terminal)
    assert "thought for" in terminal.text
    assert terminal.text.rpartition("\n> ")[2].startswith("typed ahead")


def test_ctrl_c_that_comes_too_late_does_not_end_the_chat(chat):
    terminal = chat(*[["Fine."]] * 30)
    for number in range(1, 31):
        terminal.send(f"question {number}" + ENTER)
        terminal.wait_for(lambda text, number=number: text.count("Fine.") == number)
        terminal.send(CTRL_C)
    terminal.send(CTRL_C + CTRL_D)
    assert terminal.wait_exit() == 0


def test_a_key_shows_the_thoughts_below_the_answer(chat):
    answer = words("a slow answer " * 20)
    terminal = chat(["<think>\n", "A thought.", "\n</think>\n\n", *answer], seconds_per_step=0.02)
    terminal.send("Hello" + ENTER)
    terminal.wait_for("a slow answer")
    terminal.send(CTRL_O)
    wait_ready(terminal)
    terminal.wait_for("A thought.")
    assert terminal.text.index("A thought.") > terminal.text.rindex("a slow answer")


def test_a_key_shows_the_last_thoughts_and_keeps_what_is_typed(chat):
    terminal = chat(["<think>\n", "A thought.", "\n</think>\n\n", "Done."], ["Fine."])
    take_turn(terminal, "Hello", "Done.")
    terminal.send("half a ques" + CTRL_O)
    terminal.wait_for("A thought.")
    wait_ready(terminal)
    terminal.send("tion" + ENTER)
    terminal.wait_for("Fine.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "half a question<|im_end|>" in terminal.prompts()[1]
    assert "> half a ques\n" not in terminal.text


def test_ctrl_z_hands_the_terminal_back_and_takes_it_again(chat):
    terminal = chat(words("slow answer " * 40), ["Second."], ["Third."], seconds_per_step=0.02, as_job=True)
    terminal.send("first" + ENTER)
    terminal.wait_for("slow answer slow")
    assert not terminal.echoes
    terminal.send(CTRL_Z)
    terminal.wait_for("[stopped]")
    assert terminal.echoes
    terminal.send("\n")
    wait_ready(terminal)
    assert not terminal.echoes
    take_turn(terminal, "and now", "Second.")
    terminal.send("half" + CTRL_Z)  # in the input line
    terminal.wait_for(lambda text: text.count("[stopped]") == 2)
    assert terminal.echoes
    terminal.send("\n")
    wait_ready(terminal)
    assert "> half" in terminal.text.rpartition("[stopped]")[2]
    terminal.send(" a question" + ENTER)
    terminal.wait_for("Third.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "half a question<|im_end|>" in terminal.prompts()[2]


def test_a_choice_takes_no_key_that_was_typed_before():
    with Terminal(_choose) as terminal:
        terminal.wait_for("ready")
        terminal.send("yy")
        terminal.wait_for("[y] run it   [n] do not")
        terminal.send("xN")
        terminal.wait_for("chosen n")
        terminal.wait_for("> yy")
        terminal.send(ENTER)
        assert terminal.wait_exit() == 0


def _choose():
    line_input = LineInput({}, None)
    with TerminalScreen(Output(), line_input) as screen:
        screen.note("ready")
        while int.from_bytes(fcntl.ioctl(0, termios.FIONREAD, bytes(4)), sys.byteorder) < 2:
            time.sleep(0.01)
        screen.note(f"chosen {screen.choose('Call delete_all()?', {'y': 'run it', 'n': 'do not'})}")
        assert line_input.read("what was typed before") == "yy"


def test_ctrl_c_at_the_prompt_says_how_to_leave(chat):
    terminal = chat()
    terminal.send("half a question")
    terminal.wait_for("half a question")
    terminal.send(CTRL_C)
    terminal.wait_for(lambda text: text.count(">") == 2)
    wait_ready(terminal)
    assert "ends the chat" not in terminal.text
    terminal.send(CTRL_C)
    terminal.wait_for("Ctrl-D or /exit ends the chat")
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0


def test_undo_regenerate_and_system(chat):
    terminal = chat(["First."], ["Second."], ["Third."], ["Fourth."])
    take_turn(terminal, "/system Be brief.", "system prompt: Be brief.")
    for question, answer in (("one", "First."), ("two", "Second.")):
        take_turn(terminal, question, answer)
    take_turn(terminal, "/regen", "Third.")
    take_turn(terminal, "/undo", "taken back: two")
    take_turn(terminal, "three", "Fourth.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    first, second, again, after_undo = terminal.prompts()
    assert "Be brief." in first
    assert again == second
    assert "First." in after_undo
    assert "two" not in after_undo


def test_save_and_load(chat, tmp_path):
    path = tmp_path / "talk.json"
    terminal = chat(["<think>\n", "hm", "\n</think>\n\n", "An answer."], ["Later."])
    take_turn(terminal, "a question", "An answer.")
    take_turn(terminal, f"/save {path}", "saved 1 exchange")
    take_turn(terminal, "/clear", "a new conversation")
    take_turn(terminal, f"/load {path}", "loaded 1 exchange")
    take_turn(terminal, "and then?", "Later.")
    take_turn(terminal, "/load /no/such/file", "error: cannot read /no/such/file")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "An answer." in terminal.prompts()[1]
    assert "hm" not in terminal.prompts()[1]  # earlier reasoning is not shown to the model again


def test_think_and_no_think(chat):
    terminal = chat(["One."], ["Two."])
    take_turn(terminal, "/no_think", "the model answers without thinking")
    terminal.wait_for("no thinking ·")
    take_turn(terminal, "first", "One.")
    take_turn(terminal, "/think", "the model thinks before it answers")
    take_turn(terminal, "second", "Two.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    first, second = terminal.prompts()
    assert first.endswith("<think>\n\n</think>\n\n")
    assert second.endswith("<|im_start|>assistant\n")


def test_unknown_commands_get_the_nearest_one(chat):
    terminal = chat()
    take_turn(terminal, "/undoo", "hint: did you mean /undo?")
    take_turn(terminal, "/xyzzy", "hint: /help lists them")
    take_turn(terminal, "/undo", "error: nothing has been said that could be undone")
    take_turn(terminal, "/save", "error: /save needs the name of a file")
    take_turn(terminal, "/help", "/system [TEXT]")
    take_turn(terminal, "/stats", lambda text: text.count("scripted · thinking") == 2)


def test_several_lines(chat):
    terminal = chat(["Yes."], ["Again."], ["Pasted."])
    terminal.send("one" + ALT_ENTER + "two" + CTRL_J + "three")
    terminal.wait_for("  three")
    terminal.send(ENTER)
    terminal.wait_for("Yes.")
    wait_ready(terminal)
    terminal.send('"""' + ENTER + "a" + ENTER + "b" + ENTER + '"""')
    terminal.wait_for('  b\n  """')
    terminal.send(ENTER)
    terminal.wait_for("Again.")
    wait_ready(terminal)
    terminal.send("\x1b[200~pasted\nlines\n\x1b[201~")
    terminal.wait_for("  lines")
    terminal.send(ENTER)
    terminal.wait_for("Pasted.")
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "user\none\ntwo\nthree<|im_end|>" in terminal.prompts()[0]
    assert "user\na\nb<|im_end|>" in terminal.prompts()[1]
    assert "user\npasted\nlines<|im_end|>" in terminal.prompts()[2]


def test_a_large_paste_is_folded_and_sent_whole(chat, tmp_path):
    history = tmp_path / "chat_history"
    terminal = chat(["Read."], history=history)
    pasted = "\r".join(f"line {number}" for number in range(50))
    terminal.send("Look: \x1b[200~" + pasted + "\x1b[201~ - what is it?")
    terminal.wait_for("> Look: [paste 1: 50 lines, 389 characters] - what is it?")
    terminal.send(ENTER)
    terminal.wait_for("Read.")
    wait_ready(terminal)
    assert "line 17" not in terminal.text
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "Look: line 0\nline 1\n" in terminal.prompts()[0]
    assert "\nline 49 - what is it?<|im_end|>" in terminal.prompts()[0]
    assert "line 17" in history.read_text()


def test_quotes_in_a_large_paste_are_not_the_chats_own(chat):
    terminal = chat(["Read."], ["Read, too."])
    for pasted, answer in (('"""Open.\r' + "line\r" * 9, "Read."), ('"""Closed."""\r' + "line\r" * 9, "Read, too.")):
        terminal.send(f"\x1b[200~{pasted}\x1b[201~")
        terminal.wait_for("10 lines")
        terminal.send(ENTER)
        terminal.wait_for(answer)
        wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert '"""Open.\nline\n' in terminal.prompts()[0]
    assert '"""Closed."""\nline\n' in terminal.prompts()[1]


@pytest.mark.parametrize("opening", ["half\x07", "half\x18\x05", "/edit half" + ENTER])
def test_a_question_is_written_in_the_editor(chat, tmp_path, opening):
    editor = tmp_path / "editor"
    editor.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[1], 'a').write(' a question\\nof two lines')\n")
    editor.chmod(0o700)
    terminal = chat(["Fine."], env={"VISUAL": str(editor)})
    terminal.send(opening)
    terminal.wait_for("  of two lines")
    terminal.send(ENTER)
    terminal.wait_for("Fine.")
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "half a question\nof two lines<|im_end|>" in terminal.prompts()[0]


def test_names_of_files_are_completed_after_commands_that_take_one(chat, tmp_path):
    (tmp_path / "old talk.json").write_text('{"no": "conversation"}')
    terminal = chat(columns=200)
    terminal.send(f"/load {tmp_path}/old" + TAB)
    terminal.wait_for("/old talk.json")
    terminal.send(ENTER)
    terminal.wait_for("error: ")
    assert "old talk.json" in terminal.text.partition("error: ")[2]


def test_the_meter_says_when_the_context_fills_up(chat):
    terminal = chat(["Short."], ["x"] * 60, n_ctx=300)
    take_turn(terminal, "x" * 200, "Short.")
    assert "%, /context)" in terminal.text
    assert Meter("m", "", 80, 100).level == "high"
    assert [Meter("model", "thinking", 136, 4096).fitted(columns) for columns in (60, 40, 30, 10)] == [
        "model · thinking · 136 of 4096 tokens (3%)",
        "thinking · 136 of 4096 tokens (3%)",
        "136 of 4096 tokens (3%)",
        "136/4096",
    ]


def test_commands_are_completed_and_history_is_kept(chat, tmp_path):
    history = tmp_path / "data" / "chat_history"
    terminal = chat(["Fine."], history=history)
    take_turn(terminal, "remember me", "Fine.")
    terminal.send("/reas" + TAB)
    terminal.wait_for("> /reasoning")
    terminal.send(CTRL_C)
    terminal.wait_for(lambda text: text.count(">") == 3)
    wait_ready(terminal)
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "remember me" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    again = chat(["Fine."], history=history)
    again.send(UP)
    again.wait_for("> remember me")


def test_answers_and_code_are_copied_and_saved(chat, tmp_path):
    answer = "Run this:\n\n1. First:\n   ```sh\n   make\tall\n   ```\n2. Then:\n   ```py\n   print('é')\n   ```\n"
    terminal = chat([answer], columns=200)
    take_turn(terminal, "/copy", "error: there is no answer yet")
    take_turn(terminal, "how?", "2. Then")
    take_turn(terminal, "/copy", "88 characters sent")
    assert b64encode(answer.encode()) in terminal.raw
    take_turn(terminal, "/copy 2", "11 characters sent")
    assert b"\x1b]52;c;" + b64encode("print('é')\n".encode()) + b"\x07" in terminal.raw
    take_turn(terminal, "/copy 3", "error: no code block 3: the last answer has 2 of them")
    path = tmp_path / "make.sh"
    take_turn(terminal, f"/save-code 1 {path}", "1 line written to")
    assert path.read_text() == "make\tall\n"  # a tab stays one
    take_turn(terminal, f"/save-code 2 {path}", "is there already")
    take_turn(terminal, "/save-code 2", "error: /save-code needs the name of a file")


def test_what_uses_the_context(chat):
    terminal = chat(["<think>\n", "0123456789", "\n</think>\n\n", "An answer."])
    take_turn(terminal, "/system Be brief.", "Be brief.")
    take_turn(terminal, "a question", "An answer.")
    take_turn(terminal, "/context", "left out: 10 tokens of reasoning")
    assert re.search(r"system prompt +9 +0%\nquestions \(1\) +10 +0%\nanswers \(1\) +10 +0%\n", terminal.text)
    use = context_use(Conversation(exchanges=(Exchange("abc", "de", "fgh"),)), 8, 100, len)
    assert (use.n_free, use.n_left_out) == (92, 3)
    assert use.parts[-1] == ("chat template", 3)


def test_an_answer_taller_than_the_screen_scrolls(chat):
    items = "".join(f"- item {number}\n" for number in range(60))
    terminal = chat([*words(items), "\nThe end."], rows=12)
    take_turn(terminal, "list", "The end.")
    shown = lines_of(terminal)
    assert [line for line in shown if "item" in line] == [f" • item {number}" for number in range(60)]


def test_a_terminal_made_narrower_while_an_answer_runs(chat):
    terminal = chat(words("some words to wrap " * 30), columns=80, seconds_per_step=0.005)
    terminal.send("go" + ENTER)
    terminal.wait_for("wrap some")
    terminal.resize(40, 30)
    terminal.wait_for("of 4096 tokens")
    assert terminal.text.count("wrap") >= 30


def test_a_model_cannot_control_the_terminal(chat):
    terminal = chat(["<think>\x1b]0;owned\x07", "</think>", "\x1b[2J\x1b[31mred\n", "\x9b31m"])
    take_turn(terminal, "attack", "red")
    assert b"\x1b]0;" not in terminal.raw
    assert b"\x1b[31mred" not in terminal.raw
    take_turn(terminal, "/reasoning", "]0;owned")
    assert b"\x1b]0;" not in terminal.raw


def test_a_prompt_too_long_is_refused_and_not_kept(chat):
    terminal = chat(["Short."], n_ctx=300)
    take_turn(terminal, "x" * 400, "but the context holds 300")
    take_turn(terminal, "y", "Short.")
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert "xxx" not in terminal.prompts()[0]


def test_a_plain_terminal_gets_no_escapes(chat):
    terminal = chat(["<think>\n", "hm", "\n</think>\n\n", "Some **bold** text."], kind="plain")
    terminal.send("Hello\n")
    terminal.wait_for("Some **bold** text.")
    terminal.wait_for(lambda text: text.count("[scripted") == 2 and text.endswith(">"))
    assert "thought for" in terminal.text
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
    assert b"\x1b" not in terminal.raw


def test_a_plain_terminal_shows_what_is_typed_about_a_call_and_after_it(chat):
    terminal = chat(*CALLS, kind="plain", tools=WEATHER)
    terminal.send("The weather?\n")
    terminal.wait_for("always run this tool ?")
    assert terminal.echoes
    terminal.send("y\n")
    terminal.wait_for(lambda text: "It is warm." in text and text.endswith(">"))
    assert terminal.echoes
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0


@pytest.mark.parametrize("kind", ["terminal", "plain"])
def test_ctrl_c_answers_a_question_about_a_call(chat, kind):
    terminal = chat(*CALLS, kind=kind, tools=WEATHER)
    terminal.send("The weather?" + ENTER)
    terminal.wait_for("always run this tool")
    terminal.send(CTRL_C)
    terminal.wait_for("◂ failed: the user did not approve this call; it was not run")
    terminal.wait_for("stopped; what there is was kept")
    terminal.wait_for(lambda text: text.endswith(">") if kind == "plain" else METER.search(text))
    assert "It is warm." not in terminal.text
    terminal.send(CTRL_D)
    assert terminal.wait_exit() == 0
