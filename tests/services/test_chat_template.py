from __future__ import annotations

import datetime
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qwenctl.core import Message
from qwenctl.errors import TemplateFailed
from qwenctl.services.chat_template import ChatTemplate, RenderCall, TemplateCapabilities
from qwenctl.services.template_process import TemplateLimits, WaitingChild
from tests.chat_templates import CHATML, KEEPS_REASONING, QWEN3, STRICT_ROLES, THINKING_2507, XML_CALLS

HELLO = [Message("user", "Hello")]


def render(source: str, *messages: Message, **options: object) -> str:
    with ChatTemplate(source, bos_token="<s>", eos_token="</s>") as template:
        return template.render(messages or HELLO, **options)  # type: ignore[arg-type]


def test_chatml_prompt() -> None:
    prompt = render(CHATML, Message("system", "Be brief."), Message("user", "Grüße 👋"))
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGrüße 👋<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_and_raise_exception() -> None:
    assert render(STRICT_ROLES) == "<s>[user] Hello</s>"
    with pytest.raises(TemplateFailed, match="refused the conversation: roles must alternate user/assistant/user/…"):
        render(STRICT_ROLES, Message("assistant", "Hi"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': 'é<>&\\'', 'b': [1, none, true]} | tojson }}", '{"a": "é<>&\'", "b": [1, null, true]}'),
        ("{{ [1, 2] | tojson(indent=2) }}", "[\n  1,\n  2\n]"),
        ("{% for i in [0, 1, 2] %}{% if i == 0 %}{% continue %}{% endif %}{{ i }}{% break %}{% endfor %}", "1"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% generation %}{% set x = 1 %}a{{ x }}{% endgeneration %}{{ x }}", "a1"),
        ("{{ strftime_now('%Y') }}", str(datetime.datetime.now().year)),
        ("{{ messages[0].missing is defined }}{{ missing }}", "False"),
        ("{{ tools is none }}{{ documents is none }}{{ enable_thinking is defined }}", "TrueTrueFalse"),
        ("{{ add_generation_prompt }}{{ messages[0]['content'] | upper | trim }}", "TrueHELLO"),
    ],
)  # fmt: skip
def test_renders_as_transformers_does(source: str, expected: str) -> None:
    assert render(source) == expected


def test_extra_fields_and_variables_reach_the_template() -> None:
    call = Message("assistant", "", extra={"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]})
    assert render("{{ messages[0].tool_calls[0].function.arguments.x + size }}", call, variables={"size": 41}) == "42"
    assert render("{{ messages | length }}{{ size }}", variables={"messages": [], "size": 3}) == "13"


def test_lone_surrogates_survive_the_way_there_and_back() -> None:
    assert render("{{ messages[0].content }}", Message("user", "a\ud800b")) == "a\ud800b"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, TemplateCapabilities("none", False, False, True)),
        (QWEN3, TemplateCapabilities("hybrid", True, True, True, True, "hermes")),
        (THINKING_2507, TemplateCapabilities("always", True, True, True, True, "hermes")),
        (KEEPS_REASONING, TemplateCapabilities("none", False, False, False)),
        (XML_CALLS, TemplateCapabilities("none", False, True, True, False, "xml")),
        (STRICT_ROLES, TemplateCapabilities("none", False, False, True)),
        # off unless asked for, and then the prompt itself opens the block
        (
            "{{ '<think>' if enable_thinking else '</think>' }}",
            TemplateCapabilities("hybrid", False, False, True, True),
        ),
        ("{{ raise_exception('no tools') if tools }}x", TemplateCapabilities("none", False, False, True)),
    ],
)
def test_capabilities_are_found_by_rendering(source: str, expected: TemplateCapabilities) -> None:
    with ChatTemplate(source) as template:
        assert template.capabilities == expected


def test_qwen3_keeps_reasoning_only_after_the_last_question() -> None:
    first = [Message("user", "a"), Message("assistant", "b", reasoning="earlier")]
    call = Message(
        "assistant", "", reasoning="needed", extra={"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    )
    prompt = render(QWEN3, *first, Message("user", "c"), call, Message("tool", "5"))
    assert "earlier" not in prompt
    assert "<think>\nneeded\n</think>" in prompt
    assert render(QWEN3, *first, Message("user", "c"), enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert render(QWEN3, *first, Message("user", "c"), enable_thinking=True).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "syntax error in line 1"),
        ("a\n{{ 'x }}", "syntax error in line 2"),
        ("{{ raise_exception('a\nb\x1b[31mc') }}", r"refused the conversation: a b \[31mc$"),
        ("{{ nothing.at_all }}", "something undefined: 'nothing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{% include 'x' %}", "failed"),
        ("{{ messages.append(1) }}", "not allowed"),
    ],
)
def test_a_broken_template_fails_in_one_line(source: str, reason: str) -> None:
    with pytest.raises(TemplateFailed, match=reason) as failure:
        render(source)
    assert failure.value.message.isprintable()


def test_a_template_longer_than_one_mib_is_refused_before_anything_runs() -> None:
    with pytest.raises(TemplateFailed, match="1048577 bytes long, more than 1048576"):
        ChatTemplate("x" * ((1 << 20) + 1))


LIMITS = TemplateLimits(time_s=10.0, cpu_s=0.15, memory_bytes=160 << 20, output_chars=1 << 20)
HARMLESS_TO_THE_CHILD = {
    "class": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ '' | attr('__class__') }}",
    "format attribute": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "format by attr": "{{ ('{0.__class__}' | attr('format'))(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "indirect format": "{{ ['{.__class__}'] | map('format', 1) | list }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch escaped') }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch escaped').read() }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('escaped', 'w') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "generator frame": "{{ messages | map('upper') | attr('gi_frame') }}",
    "code": "{% macro m() %}{% endmacro %}{{ m.__call__.__code__ }}",
    "mutation": "{% set _ = messages.clear() %}",
    "wide range": "{{ range(10 ** 9) | list }}",
    "string product": "{{ 'a' * 2000000000 }}",
    "product of a variable": "{{ messages[0].content * 2000000000 }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "format filter width": "{{ '%1000000000d' | format(1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "center": "{{ 'a' | center(2000000000) }}",
    "ljust": "{{ 'a'.ljust(2000000000) }}",
    "join": "{% for a in range(99999) %}{{ range(99999) | join(',') }}{% endfor %}",
    "recursive macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for a in [[[]]] recursive %}{{ loop([[[]]]) }}{% endfor %}",
    "much output": "{% for a in range(99999) %}{{ 'x' * 100 }}{% endfor %}",
}
FATAL_TO_THE_CHILD = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "constant power": "{{ 10 ** 10000000 }}",
    "power of a variable": "{{ 9 ** (messages | length + 10 ** 9) }}",
    "growing string": "{% set n = namespace(s='xy') %}{% for a in range(99999) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "growing list": "{% set n = namespace(s=[1]) %}{% for a in range(99999) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "indent": "{{ ('a\n' * 1000) | indent(10000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(100000000) | list }}",
    "lorem": "{{ lipsum(n=1000000) }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "nesting": "{% set n = namespace(s=1) %}{% for a in range(9999) %}{% set n.s=[n.s] %}{% endfor %}{{ n.s|tojson }}",
    "deep source": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "wide source": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep lists": "{{ " + "[" * 2000 + "]" * 2000 + " }}",
    "text filters": "{% for a in range(99999) %}{{ (messages[0].content * 9999) | wordwrap(1) | urlize }}{% endfor %}",
    "integer": "{% set n = namespace(i=7) %}{% for a in range(40) %}{% set n.i = n.i ** 2 %}{% endfor %}{{ n.i }}",
}  # fmt: skip


def stopped(template: ChatTemplate, content: str) -> bool:
    """Whether rendering failed in one line."""
    try:
        template.render([Message("user", content)])
    except TemplateFailed as error:
        return error.message.isprintable()
    return False


def test_hostile_templates_are_stopped_without_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    condition = "{{% if messages[0].content == '{}' %}}{}{{% endif %}}".format
    together = "".join(condition(*case) for case in HARMLESS_TO_THE_CHILD.items())
    with ChatTemplate(together, limits=LIMITS) as template:
        for name in HARMLESS_TO_THE_CHILD:
            assert stopped(template, name), name
    for name, source in FATAL_TO_THE_CHILD.items():
        with ChatTemplate(source, limits=LIMITS) as template:
            assert stopped(template, name), name
    assert not list(tmp_path.iterdir())


def test_a_killed_child_is_replaced() -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    source = "{% if messages[0].content == 'loop' %}" + loop + "{% endif %}{{ messages[0].content }}"
    with ChatTemplate(source, limits=LIMITS) as template:
        assert template.render([Message("user", "fine")]) == "fine"
        for _ in range(2):
            with pytest.raises(TemplateFailed, match=r"more than 0\.15 s of processor time"):
                template.render([Message("user", "loop")])
            assert template.render([Message("user", "again")]) == "again"
        child = template._process._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(TemplateFailed, match=r"died \(signal 9\)"):
            template.render([Message("user", "gone")])
        assert template.render([Message("user", "back")]) == "back"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("size", [1, 1_000_000], ids=["reads", "writes"])  # what is waited for: more fills the pipe
def test_a_child_that_does_not_answer_is_replaced(size: int) -> None:
    with ChatTemplate("{{ messages[0].content }}", limits=TemplateLimits(time_s=0.2)) as template:
        assert template.render(HELLO) == "Hello"
        child = template._process._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(TemplateFailed, match=r"ran longer than 0\.2 s"):
            template.render([Message("user", "x" * size)])
        assert child.returncode == -signal.SIGKILL
        assert template.render([Message("user", "x" * size)]) == "x" * size


def test_no_child_without_a_rendering_and_none_left_behind() -> None:
    template = ChatTemplate(CHATML)
    assert template._process._child is None
    template.render(HELLO)
    child = template._process._child
    assert child is not None
    del template
    gc.collect()
    assert child.returncode is not None


def test_a_child_that_was_started_early_is_taken_once_and_ends_with_whoever_has_it() -> None:
    waiting = WaitingChild()
    process = waiting._process
    assert process is not None
    with ChatTemplate(CHATML, waiting=waiting) as template:
        assert template.render(HELLO) == render(CHATML, *HELLO)
        assert template._process._child is process
        waiting.close()
        assert process.poll() is None
        template.close()
        assert process.returncode is not None
        assert template.render(HELLO) == render(CHATML, *HELLO)
    unused = WaitingChild()
    process = unused._process
    unused.close()
    assert process is not None
    assert process.returncode is not None


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_the_child_cannot_open_or_write_files() -> None:
    code = (
        "import sys; sys.path.append('qwenctl/services')\n"
        "import template_worker\n"
        "template_worker._renounce()\n"
        "try: open('/dev/null')\n"
        "except OSError as error: print(error.errno)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "24"  # too many open files


def test_long_conversations_have_room() -> None:
    text = "word " * 2_000_000
    assert len(render(CHATML, Message("user", text))) == len(text) + len(render(CHATML, Message("user", "")))


def test_what_is_rendered_ahead_is_the_same_and_fails_alone() -> None:
    source = (
        "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}{{ x }}"
    )
    texts = ["a", "bad", "c"]
    with ChatTemplate(source) as template:
        calls = [RenderCall([Message("user", text)], None, (), {"x": number}) for number, text in enumerate(texts)]
        template.render_ahead(calls)
        process, template._process = template._process, None  # type: ignore[assignment]  # nothing more is asked of it
        try:
            assert template.render([Message("user", "c")], variables={"x": 2}) == "c2"
            with pytest.raises(TemplateFailed, match="no"):
                template.render([Message("user", "bad")], variables={"x": 1})
        finally:
            template._process = process
        assert template.render([Message("user", "a")], variables={"x": 9}) == "a9"
        assert template.render([Message("user", "c")], variables={"x": 2}) == "c2"
