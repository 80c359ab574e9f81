"""Prompts with holes: `{{name}}` is replaced by a value, `{{input}}` by what was piped in, attached or typed.

That is all: no conditions, no loops, no code, so a template from somebody else can do nothing but say something. Braces
around anything but a name stay as they are, and values are not looked through for holes. Knows no command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from qwenctl.errors import InvalidRequest
from qwenctl.services.typed_path import is_file, typed_path
from qwenctl.settings import Settings

INPUT = "input"
_HOLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_SUFFIXES = ("", ".txt", ".md")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A text with holes."""

    name: str
    text: str

    @property
    def variables(self) -> tuple[str, ...]:
        """The names in it, in the order of their first holes."""
        return tuple(dict.fromkeys(_HOLE.findall(self.text)))

    @property
    def takes_input(self) -> bool:
        """Whether there is a hole for what was piped in, attached or typed."""
        return INPUT in self.variables

    def fill(self, values: Mapping[str, str], given: str) -> str:
        """Return the prompt.

        Args:
            values: of all variables but `input`.
            given: the input; without a hole for it, it stands before the template's text.

        Raises:
            InvalidRequest: variables without a value, or values without a variable; all are named.
        """
        wanted = [name for name in self.variables if name != INPUT]
        missing = [name for name in wanted if name not in values]
        if missing:
            hint = " ".join(f"--var {name}=…" for name in missing)
            raise InvalidRequest(f"the template {self.name} needs {', '.join(missing)}", f"add {hint}")
        for name in values:
            if name not in wanted:
                near = get_close_matches(name, wanted, 1)
                there = f"its variables are {', '.join(wanted)}" if wanted else "it has no variables"
                hint = f"did you mean {near[0]}?" if near else there
                raise InvalidRequest(f"the template {self.name} has no variable {name}", hint)
        if self.takes_input and not given:
            hint = f"pipe text into it, add -f FILE, or type it: qwenctl run --template {self.name} …"
            raise InvalidRequest(f"the template {self.name} needs input", hint)
        text = _HOLE.sub(lambda hole: given if hole[1] == INPUT else values[hole[1]], self.text)
        return text if self.takes_input or not given else f"{given}\n\n{text}"


def templates_folder(settings: Settings) -> Path:
    """Return where a user's templates lie."""
    return settings.config_dir / "templates"


def read_template(name: str, folder: Path) -> PromptTemplate:
    """Return the template in `folder` that has this name, with or without .txt or .md; or in the file of this name.

    Raises:
        InvalidRequest: there is none, or it is no text.
    """
    is_path = "/" in name or name.startswith(("~", "."))
    candidates = [] if is_path else [folder / (name + suffix) for suffix in _SUFFIXES]
    path = next(filter(is_file, (*candidates, typed_path(name))), None)
    if path is None:
        near = get_close_matches(name, template_names(folder), 1)
        hint = f"did you mean {near[0]}?" if near else f"write it as {folder / name}.txt, with {{{{input}}}} in it"
        raise InvalidRequest(f"no template {name}", hint)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidRequest(f"{path} is larger than {_MAX_BYTES >> 20} MiB", "attach long texts: -f FILE")
        return PromptTemplate(name, data.decode("utf-8-sig").strip())
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}", "--template reads a file") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 (byte {error.start})", "save it as UTF-8") from error


def template_names(folder: Path) -> list[str]:
    """Return the names of the templates in `folder`."""
    return sorted({path.stem for path in folder.glob("[!.]*") if path.is_file() and path.suffix in _SUFFIXES})
