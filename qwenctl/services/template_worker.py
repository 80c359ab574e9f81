"""Render one chat template for a parent process. This is the child: it has small limits and nothing to lose.

Jinja's sandbox stops a template from reaching Python's inside; it does not stop `10**10**10` or a loop without end. So
the template is compiled and rendered here, where the kernel ends whatever takes too much processor time or memory, and
where no file can be opened any more once the imports are done.

    frame    = length (4 bytes, big endian) + JSON (UTF-8, surrogates passed)
    first    {"source": text, "cpu_s": seconds, "memory_bytes": n, "output_chars": n}  →  {"ready": true}
    then     {"contexts": [variables, …]}  →  {"results": [{"text": …} | {"error": kind, "message": …}, …]}

The limits hold for one frame. They grow with the frame's own size, which is the caller's doing and not the template's.
Started by template_process.py with nothing but the standard library and Jinja on its path: imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import textwrap  # noqa: F401  (filters and globals of Jinja import this and the next two when they are first used)
import time
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.constants
import jinja2.debug  # no file can be opened any more when a template raises
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _OutputError(Exception):
    """The template wrote more than it may."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Raises for a forbidden attribute at once; Jinja's would print nothing and raise only when it is used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__}")


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's text for training: here just its body."""

    tags = {"generation"}  # noqa: RUF012  (the name and type that Jinja asks for)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as templates written for `transformers` expect it: Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _compile(source: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _render(template: jinja2.Template, context: dict[str, Any], max_chars: int) -> str:
    pieces, n_chars = [], 0
    for piece in template.generate(**context):
        n_chars += len(piece)
        if n_chars > max_chars:
            raise _OutputError
        pieces.append(piece)
    return "".join(pieces)


def _describe(error: Exception) -> dict[str, str]:
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (_Refused, "refused"),
        (_OutputError, "output"),
        (MemoryError, "memory"),
        (SecurityError, "unsafe"),
        (jinja2.UndefinedError, "undefined"),
    )
    if isinstance(error, jinja2.TemplateSyntaxError):
        return {"error": "syntax", "message": f"line {error.lineno}: {error.message}"}
    for kind, name in kinds:
        if isinstance(error, kind):
            return {"error": name, "message": str(error)[:1000]}
    return {"error": "failed", "message": f"{type(error).__name__}: {str(error)[:1000]}"}


class _Worker:
    """The compiled template and the limits of a rendering."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._source: str = first["source"]
        self._cpu_s: float = first["cpu_s"]
        self._memory_bytes: int = first["memory_bytes"]
        self._output_chars: int = first["output_chars"]
        self._template: jinja2.Template | None = None

    def answer(self, body: bytes) -> dict[str, Any]:
        _limit(self._cpu_s + len(body) / 10e6, self._memory_bytes + 16 * len(body))
        try:
            contexts = json.loads(body.decode("utf-8", "surrogatepass"))["contexts"]
            results = [self._result(context, self._output_chars + 4 * len(body)) for context in contexts]
        except Exception as error:
            results = [_describe(error)]
        _unlimit()
        return {"results": results}

    def _result(self, context: dict[str, Any], max_chars: int) -> dict[str, str]:
        try:
            if self._template is None:
                self._template = _compile(self._source)
            return {"text": _render(self._template, context, max_chars)}
        except Exception as error:  # whatever a template can provoke is its failure, not ours
            return _describe(error)


if sys.platform != "win32":
    import resource

    def _limit(cpu_s: float, memory_bytes: int) -> None:
        """From now on the kernel ends this process after `cpu_s` of processor time, also in the midst of C code."""
        _set_soft(resource.RLIMIT_AS, memory_bytes)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)

    def _unlimit() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _set_soft(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1])

    def _renounce() -> None:
        """No more open files, written files or core dumps. The pipes that are open stay open."""
        time.localtime()  # reads the time zone while that can be opened, and the next line loads a codec
        _render(_compile("{{ '\\n' }}"), {}, 1)
        _set_soft(resource.RLIMIT_FSIZE, 0)
        _set_soft(resource.RLIMIT_CORE, 0)
        _set_soft(resource.RLIMIT_NOFILE, 3)

    def _set_soft(name: int, value: int) -> None:
        hard = resource.getrlimit(name)[1]
        soft = value if resource.RLIM_INFINITY in (hard, value) else min(value, hard)
        try:
            resource.setrlimit(name, (soft, hard))
        except (OSError, ValueError):  # a system that does not know the limit: the parent's deadline remains
            return

else:  # the parent's deadline is the only limit there

    def _limit(cpu_s: float, memory_bytes: int) -> None:
        del cpu_s, memory_bytes

    def _unlimit() -> None:
        return

    def _renounce() -> None:
        return


def _read(n_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        piece = os.read(0, min(n_bytes - len(data), 1 << 20))
        if not piece:
            sys.exit(0)  # the parent is gone
        data += piece
    return bytes(data)


def _read_frame() -> bytes:
    return _read(struct.unpack(">I", _read(4))[0])


def _write_frame(value: dict[str, Any]) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """Answer frames until the parent closes the pipe."""
    worker = _Worker(json.loads(_read_frame().decode("utf-8", "surrogatepass")))
    _renounce()
    _write_frame({"ready": True})
    while True:
        _write_frame(worker.answer(_read_frame()))
