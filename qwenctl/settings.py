"""The program's configuration. The only file that reads the environment.

    QWENCTL_MODELS    folder of converted models           default: <data>/models
    QWENCTL_THREADS   CPU threads for conversion and llama.cpp   default: chosen per command
    QWENCTL_HISTORY   off: `qwenctl chat` keeps no history of what was typed
    QWENCTL_PREFIX_CACHE   off: computed prompts are not kept on disk; a size: how much they may take, in all
    QWENCTL_SESSIONS  off: `qwenctl chat` does not save what is said
    QWENCTL_DEBUG     1: every error shows its traceback
    QWENCTL_MODEL, QWENCTL_CTX …    options of run, chat, batch and serve: --kv-type is QWENCTL_KV_TYPE
    XDG_CONFIG_HOME   parent of the folder of config.toml, which config_file.py reads
    XDG_DATA_HOME, XDG_CACHE_HOME   parents of the data and the cache folder
    COLORFGBG                       which colours some terminals say they have
    NO_COLOR, TERM=dumb             plain text, no escape sequences
    CUDA_…, GGML_…, OMP_… and more  read by native libraries; `qwenctl doctor` shows them
    HF_ENDPOINT       address of the hub                  default: https://huggingface.co
    HF_HOME, HF_HUB_CACHE    huggingface_hub's folder, and its cache of files in there
    HF_TOKEN          the user's token for the hub; HF_HUB_DISABLE_IMPLICIT_TOKEN=1: none is sent
    HF_HUB_OFFLINE    1: nothing is asked of the hub; what its cache holds can still be used
    HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY   in capitals or not: how a hub is reached
    SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE   who vouches for a hub or a proxy

What huggingface_hub reads by itself has the meaning that it has there (huggingface_hub/constants.py).
Knows nothing of options: a command combines these values with its flags and the config file: the flag wins, then the
environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from qwenctl.errors import InvalidRequest
from qwenctl.units import parse_bytes

_PREFIX = "QWENCTL_"
_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})
_VARIABLES = (
    "QWENCTL_MODELS",
    "QWENCTL_THREADS",
    "QWENCTL_HISTORY",
    "QWENCTL_PREFIX_CACHE",
    "QWENCTL_SESSIONS",
    "QWENCTL_DEBUG",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "NO_COLOR",
    "TERM",
    "COLORFGBG",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
)  # HF_TOKEN is a secret and not for showing
# What native libraries read: which devices they see, how many threads they start.
_NATIVE = (
    "CUDA_",
    "NVIDIA_VISIBLE",
    "HIP_",
    "ROCR_",
    "ZE_",
    "ONEAPI_",
    "VK_",
    "GGML_",
    "LLAMA_",
    "OMP_",
    "GOMP_",
    "KMP_",
)

# How often GNU's OpenMP looks whether the others are done before a thread sleeps. Its own 300,000 looks, 13 ms, hold
# the core of whoever is awaited there: beside one busy process on two cores, with 10,000 looks an offloaded model
# writes 2.2 times as fast, SmolLM2-135M 5.7 times (scripts/bench_busy.py); a server whose clients share its cores 1.04
# times. On a quiet machine an offloaded model of 17 ms a token loses 2-4 %; 300 looks make models 8 times slower.
# Beside a graphics card, whose turns may last longer, it was not measured: left alone.
_SPIN_COUNT = {"GOMP_SPINCOUNT": "10000"}
_SPIN_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_CARDS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))

_HUB = "https://huggingface.co"
_HUB_ON = frozenset({"1", "on", "yes", "true"})  # anything else is off, without complaint: so huggingface_hub has it


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Where the hub is, and what may be told to it."""

    cache_dir: Path  # huggingface_hub's cache of files
    endpoint: str = _HUB
    token: str | None = field(default=None, repr=False)  # of the environment; another may be stored
    may_send_token: bool = True
    offline: bool = False


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How other machines are reached. Not shown in messages: the URL of a proxy may hold a password."""

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)  # "http", "https" or "all" → URL of a proxy
    no_proxy: str = ""  # hosts that are reached without one, separated by commas; "*": all
    ca_file: Path | None = None  # certificates to trust instead of those that come with the program

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> NetworkSettings:
        """Read the variables that curl, pip and the hub's own client know. Small letters win, as they do there."""
        found = {scheme: _either_case(environ, f"{scheme}_proxy") for scheme in ("http", "https", "all")}
        files = (environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
        ca_file = next((name for name in files if name), None)
        return cls(
            proxies={scheme: url for scheme, url in found.items() if url},
            no_proxy=_either_case(environ, "no_proxy"),
            ca_file=Path(ca_file) if ca_file else None,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for the whole process. Folders need not exist; whoever writes creates them."""

    data_dir: Path  # what a user would miss: models, chats
    cache_dir: Path  # what can be made again: the converted demo, remembered load trials
    models_dir: Path
    config_dir: Path = Path("/dev/null")  # what a user wrote: config.toml, templates; nothing, unless it is said
    model: str | None = None  # that the config file or QWENCTL_MODEL names, where the command line names none
    history: bool = True
    prefix_cache_bytes: int | None = None  # of computed prompts on disk; 0: none are kept; None: by the disk's room
    sessions: bool = True  # whether chats are saved
    theme: str = "dark"  # what suits the terminal: dark, light
    n_threads: int | None = None  # None: chosen per command
    debug: bool = False
    plain: bool = False  # no colours, no cursor movement: NO_COLOR, TERM=dumb
    hub: HubSettings = field(default_factory=lambda: _hub_settings({}))
    network: NetworkSettings = field(default_factory=NetworkSettings)
    variables: Mapping[str, str] = field(default_factory=dict, compare=False)  # those that matter and are set
    own_variables: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # all QWENCTL_…; secrets

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read every variable that the program knows.

        Raises:
            InvalidRequest: a variable holds a value that makes no sense; the message names it.
        """
        data_dir = _xdg_folder(environ, "XDG_DATA_HOME", ".local/share")
        cache_dir = _xdg_folder(environ, "XDG_CACHE_HOME", ".cache")
        models = environ.get("QWENCTL_MODELS")
        return cls(
            data_dir=data_dir,
            cache_dir=cache_dir,
            config_dir=_xdg_folder(environ, "XDG_CONFIG_HOME", ".config"),
            models_dir=Path(models).expanduser() if models else data_dir / "models",
            history=_switch(environ, "QWENCTL_HISTORY", default=True),
            prefix_cache_bytes=_prefix_cache_bytes(environ),
            theme=_theme(environ),
            sessions=_switch(environ, "QWENCTL_SESSIONS", default=True),
            n_threads=_n_threads(environ),
            debug=_switch(environ, "QWENCTL_DEBUG", default=False),
            plain=bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb",
            hub=_hub_settings(environ),
            network=NetworkSettings.from_environment(environ),
            variables={name: value for name, value in environ.items() if value and _is_shown(name)},
            own_variables={name: value for name, value in environ.items() if value and name.startswith(_PREFIX)},
        )


def native_defaults(environ: Mapping[str, str], cards: Sequence[Path] = _CARDS) -> Mapping[str, str]:
    """Return the variables that suit native libraries and that the user leaves to us.

    They have to be set before such a library is loaded: GNU's OpenMP reads them then.

    Args:
        environ: the environment.
        cards: files that are there if a driver of graphics cards is.
    """
    if any(environ.get(name) for name in _SPIN_CHOICES) or any(card.exists() for card in cards):
        return {}
    return _SPIN_COUNT


def _is_shown(name: str) -> bool:
    return name in _VARIABLES or name.startswith(_NATIVE)


def _either_case(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _xdg_folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    """Return `<parent>/qwenctl`. The XDG specification says that relative paths are to be ignored."""
    parent = Path(environ.get(name, ""))
    if not parent.is_absolute():
        parent = Path(environ.get("HOME") or Path.home()) / default
    return parent / "qwenctl"


def _hub_settings(environ: Mapping[str, str]) -> HubSettings:
    parent = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    home = Path(environ.get("HF_HOME") or Path(parent) / "huggingface")
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    endpoint = environ.get("HF_ENDPOINT", "").strip().rstrip("/") or _HUB
    if not _is_address(endpoint):
        raise InvalidRequest(f"HF_ENDPOINT is {environ['HF_ENDPOINT']!r}", f"write an address: {_HUB}")
    token = (environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or "").strip()
    return HubSettings(
        cache_dir=Path(cache).expanduser(),
        endpoint=endpoint,
        token=token or None,
        may_send_token=environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() not in _HUB_ON,
        offline=(environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or "").lower() in _HUB_ON,
    )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _ON | _OFF:
        raise InvalidRequest(f"{name} is {environ[name]!r}", "write on or off")
    return text in _ON


def _prefix_cache_bytes(environ: Mapping[str, str]) -> int | None:
    text = environ.get("QWENCTL_PREFIX_CACHE", "").strip().lower()
    if text in _OFF:
        return 0
    if not text or text in _ON:
        return None
    try:
        return parse_bytes(text)
    except ValueError:
        raise InvalidRequest(f"QWENCTL_PREFIX_CACHE is {text!r}", "write off, on or a size: 20GiB") from None


def _theme(environ: Mapping[str, str]) -> str:
    """Read what rxvt, Konsole and others say of themselves: `15;0` is white on black."""
    return "light" if environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15") else "dark"


def _n_threads(environ: Mapping[str, str]) -> int | None:
    text = environ.get("QWENCTL_THREADS", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 512):
        raise InvalidRequest(f"QWENCTL_THREADS is {text!r}", "write a number of threads from 1 to 512")
    return int(text)
