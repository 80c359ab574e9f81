"""What the environment says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.settings import HubSettings, Settings, native_defaults

_TELL = {"OMP_DISPLAY_ENV": "verbose"}


def settings(**environ):
    return Settings.from_environment({"HOME": "/home/anna", **environ})


def test_defaults_follow_the_xdg_specification():
    assert settings() == Settings(
        data_dir=Path("/home/anna/.local/share/qwenctl"),
        cache_dir=Path("/home/anna/.cache/qwenctl"),
        config_dir=Path("/home/anna/.config/qwenctl"),
        models_dir=Path("/home/anna/.local/share/qwenctl/models"),
        hub=HubSettings(Path("/home/anna/.cache/huggingface/hub"), "https://huggingface.co"),
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


def test_the_hubs_own_variables_mean_what_huggingface_hub_says():
    """Held against huggingface_hub/constants.py, which reads them once, at import."""
    hub = settings(HF_HOME="/big/hf", HF_TOKEN=" hf_x ", HF_ENDPOINT="https://mirror.org/hub/").hub
    assert hub == HubSettings(Path("/big/hf/hub"), "https://mirror.org/hub", "hf_x")
    assert "hf_x" not in repr(hub)
    assert "hf_x" not in str(settings(HF_TOKEN="hf_x").variables)
    assert settings(XDG_CACHE_HOME="/c").hub.cache_dir == Path("/c/huggingface/hub")
    assert settings(HF_HOME="/big", HF_HUB_CACHE="/fast").hub.cache_dir == Path("/fast")
    assert settings(HF_HUB_OFFLINE="1").hub.offline
    assert settings(TRANSFORMERS_OFFLINE="True").hub.offline
    assert not settings(HF_HUB_OFFLINE="0").hub.offline
    assert not settings(HF_HUB_DISABLE_IMPLICIT_TOKEN="1").hub.may_send_token


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "http://["),
        ("HF_ENDPOINT", "https:///models"),
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


def test_a_terminal_that_says_its_colours_gets_the_theme_for_them():
    assert [settings(COLORFGBG=said).theme for said in ("", "15;0", "0;15", "0;default;7")] == [
        "dark",
        "dark",
        "light",
        "light",
    ]


def test_threads_that_wait_leave_the_core_to_others_soon_unless_the_user_says_how_long_or_there_is_a_card(tmp_path):
    card = tmp_path / "nvidiactl"
    assert native_defaults({}, [card]) == {"GOMP_SPINCOUNT": "10000"}
    assert native_defaults({"GOMP_SPINCOUNT": "7"}, [card]) == {}
    assert native_defaults({"OMP_WAIT_POLICY": "active"}, [card]) == {}
    card.touch()
    assert native_defaults({}, [card]) == {}


@pytest.mark.skipif(native_defaults({}) == {}, reason="a graphics card is here")
def test_openmp_hears_of_it(qwenctl_process):
    """It reads its variables when it is loaded, and says then what it has read."""
    assert "GOMP_SPINCOUNT = '10000'" in qwenctl_process("doctor", env={"GOMP_SPINCOUNT": "", **_TELL}).stderr
    assert "GOMP_SPINCOUNT = '9'" in qwenctl_process("doctor", env={"GOMP_SPINCOUNT": "9", **_TELL}).stderr
