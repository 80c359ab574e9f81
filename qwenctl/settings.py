"""The program's configuration. The only file that reads the environment.

    QWENCTL_MODELS    folder of converted models           default: <data>/models
    QWENCTL_THREADS   CPU threads for conversion and llama.cpp   default: chosen per command
    QWENCTL_HISTORY   off: `qwenctl chat` keeps no history of what was typed
    QWENCTL_DEBUG     1: every error shows its traceback
    XDG_DATA_HOME, XDG_CACHE_HOME   parents of the data and the cache folder
    NO_COLOR, TERM=dumb             plain text, no escape sequences
    CUDA_…, GGML_…, OMP_… and more  read by native libraries; `qwenctl doctor` shows them

Knows nothing of options: a command combines these values with its flags, and the flag wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.errors import InvalidRequest

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})
_VARIABLES = (
    "QWENCTL_MODELS",
    "QWENCTL_THREADS",
    "QWENCTL_HISTORY",
    "QWENCTL_DEBUG",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "NO_COLOR",
    "TERM",
)
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


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for the whole process. Folders need not exist; whoever writes creates them."""

    data_dir: Path  # what a user would miss: models, chat history
    cache_dir: Path  # what can be made again: the converted demo, remembered load trials
    models_dir: Path
    history: bool = True
    n_threads: int | None = None  # None: chosen per command
    debug: bool = False
    plain: bool = False  # no colours, no cursor movement: NO_COLOR, TERM=dumb
    variables: Mapping[str, str] = field(default_factory=dict, compare=False)  # those that matter and are set

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
            models_dir=Path(models).expanduser() if models else data_dir / "models",
            history=_switch(environ, "QWENCTL_HISTORY", default=True),
            n_threads=_n_threads(environ),
            debug=_switch(environ, "QWENCTL_DEBUG", default=False),
            plain=bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb",
            variables={name: value for name, value in environ.items() if value and _is_shown(name)},
        )


def _is_shown(name: str) -> bool:
    return name in _VARIABLES or name.startswith(_NATIVE)


def _xdg_folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    """Return `<parent>/qwenctl`. The XDG specification says that relative paths are to be ignored."""
    parent = Path(environ.get(name, ""))
    if not parent.is_absolute():
        parent = Path(environ.get("HOME") or Path.home()) / default
    return parent / "qwenctl"


def _switch(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in _ON | _OFF:
        raise InvalidRequest(f"{name} is {environ[name]!r}", "write on or off")
    return text in _ON


def _n_threads(environ: Mapping[str, str]) -> int | None:
    text = environ.get("QWENCTL_THREADS", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 512):
        raise InvalidRequest(f"QWENCTL_THREADS is {text!r}", "write a number of threads from 1 to 512")
    return int(text)
