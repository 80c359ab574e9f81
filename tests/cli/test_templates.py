"""`qwenctl run --template`: the prompt that the model gets, and what is refused before it is loaded."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture
def templates(home):
    folder = home / "config" / "qwenctl" / "templates"
    folder.mkdir(parents=True)
    (folder / "translate.txt").write_text("Translate into {{language}}:\n\n{{input}}\n")
    (folder / "joke.txt").write_text("Tell a joke.")
    return folder


@pytest.fixture
def prompt_of(qwenctl, monkeypatch, demo_gguf):
    """Return `prompt_of(*words, stdin="")`: the user's message that `run` asks the model."""

    def ask(*words, stdin=""):
        seen = []

        def stop(messages, _options):
            seen.extend(messages)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("qwenctl.services.generation.ChatModel.prepare", lambda _, *given: stop(*given))
            ran = qwenctl("run", demo_gguf, *words, "--threads", "1", stdin=stdin)
        return seen[-1].content if seen else (ran.code, ran.stderr)

    return ask


@pytest.mark.usefixtures("templates")
def test_what_the_model_is_asked(prompt_of, tmp_path):
    (tmp_path / "word.txt").write_text("Dutch\n")
    words = ["--template", "translate", "--var"]
    assert prompt_of("-", *words, "language=French", stdin="Hello\n") == "Translate into French:\n\nHello"
    assert prompt_of("Typed", *words, "language=a=b", stdin="Piped") == "Translate into a=b:\n\nPiped\n\nTyped"
    assert prompt_of("x", *words, f"language=@{tmp_path}/word.txt") == "Translate into Dutch:\n\nx"
    assert prompt_of("--template", "joke") == "Tell a joke."
    assert prompt_of("--template", "joke", stdin="Topic") == "Topic\n\nTell a joke."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--template", "translate"], "the template translate needs language"),
        (["--template", "translate", "--var", "language"], "--var language names no variable"),
        (["--template", "translate", "--var", "langage=x", "--var", "language=y"], "did you mean language?"),
        (["--template", "translat"], "did you mean translate?"),
        (["--var", "a=b"], "--var without --template"),
    ],
)
@pytest.mark.usefixtures("templates")
def test_usage_errors(qwenctl, words, message):
    ran = qwenctl("run", "Hello", *words)
    assert (ran.code, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_a_preset_may_name_one(prompt_of, templates):
    (templates.parent / "config.toml").write_text(
        "[presets.french]\ntemplate = 'translate'\nvar = ['language=French']\n"
    )
    assert prompt_of("Hello", "-p", "french") == "Translate into French:\n\nHello"


@pytest.mark.usefixtures("templates")
def test_they_are_listed(qwenctl):
    assert "templates  joke, translate" in qwenctl("config").stdout
