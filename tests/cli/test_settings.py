"""What the environment says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.settings import Settings


def settings(**environ):
    return Settings.from_environment({"HOME": "/home/anna", **environ})


def test_defaults_follow_the_xdg_specification():
    assert settings() == Settings(
        data_dir=Path("/home/anna/.local/share/qwenctl"),
        cache_dir=Path("/home/anna/.cache/qwenctl"),
        models_dir=Path("/home/anna/.local/share/qwenctl/models"),
    )
    assert settings(XDG_DATA_HOME="/data").models_dir == Path("/data/qwenctl/models")
    assert settings(XDG_CACHE_HOME="relative").cache_dir == Path("/home/anna/.cache/qwenctl")


def test_variables():
    assert settings(QWENCTL_MODELS="/big/models").models_dir == Path("/big/models")
    assert settings(QWENCTL_THREADS=" 4 ").n_threads == 4
    assert settings(QWENCTL_HISTORY="off").history is False
    assert settings(QWENCTL_DEBUG="1").debug is True
    assert settings(NO_COLOR="1").plain
    assert settings(TERM="dumb").plain
    assert not settings(NO_COLOR="", TERM="xterm").plain  # an empty NO_COLOR is none: no-color.org


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QWENCTL_THREADS", "0"),
        ("QWENCTL_THREADS", "-1"),
        ("QWENCTL_THREADS", "٤"),
        ("QWENCTL_THREADS", "100000"),
        ("QWENCTL_HISTORY", "perhaps"),
        ("QWENCTL_DEBUG", "2"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(InvalidRequest, match=name):
        settings(**{name: value})
