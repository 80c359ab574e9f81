"""`qwenctl serve`: a model for other programs, over HTTP."""

from __future__ import annotations

import json
import signal
from contextlib import closing, suppress
from pathlib import Path

import click

from qwenctl.cli.command import Command
from qwenctl.cli.configured_options import configurable
from qwenctl.cli.engine_flags import engine_flags, prompt_cache_option
from qwenctl.cli.open_model import find_model, load_engine, report_placement
from qwenctl.cli.options import Duration, model_argument, output_options
from qwenctl.cli.output import Output
from qwenctl.cli.parallel_option import ParallelCount, with_parallel
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.errors import InvalidRequest
from qwenctl.services.demo_file import DEMO_NAME, converted_demo
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import ChatModel
from qwenctl.services.model_store import locate_model
from qwenctl.services.server.model_host import ModelSource, OpenedModel
from qwenctl.services.server.run_server import ServerEvents, run_server
from qwenctl.services.server.server_options import DEFAULT_HOST, DEFAULT_PORT, ServerLimits, ServerOptions
from qwenctl.services.serving.engine_runner import EngineRunner
from qwenctl.services.split_files import first_files, model_name
from qwenctl.services.template_process import WaitingChild
from qwenctl.settings import Settings

_MOST_KEY_BYTES = 4096


@click.command(
    "serve",
    cls=Command,
    examples=[
        "qwenctl serve qwen3-30b                          # then: http://127.0.0.1:8000/v1",
        "qwenctl serve qwen3-30b --parallel 16 --ctx 32k",
        "qwenctl serve --lazy --idle-unload 10m           # loaded with the first request, not kept for nothing",
        "qwenctl serve qwen3-30b --host 0.0.0.0 --api-key-file key.txt",
    ],
)
@model_argument
@configurable
@click.option("--host", default=DEFAULT_HOST, show_default=True, metavar="NAME", help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    metavar="N",
    help="Port to listen at; 0 is a free one.",
)
@click.option("--unix-socket", type=click.Path(path_type=Path), metavar="FILE", help="Listen at a socket file instead.")
@click.option("--api-key", metavar="KEY", help="Key that clients must send; QWENCTL_API_KEY keeps it from others.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), metavar="FILE",
    help="Read the key from FILE.",
)  # fmt: skip
@click.option(
    "--parallel",
    type=ParallelCount(),
    metavar="N|auto",
    help="Answers at the same time; auto is as many as pay and fit.  [default: auto]",
)
@click.option(
    "--queue",
    "n_waiting",
    type=click.IntRange(0, 100_000),
    default=ServerLimits().n_waiting,
    show_default=True,
    metavar="N",
    help="Answers that may wait beside them; more are refused.",
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help='Another name for the model; "*" is any.')
@click.option("--allow-switch", is_flag=True, help="Let requests name another model that is here, one at a time.")
@click.option("--lazy", is_flag=True, help="Load the model with the first request.")
@click.option(
    "--idle-unload", "idle_unload_s", type=Duration(), metavar="TIME", help="Unload after so long without use: 10m."
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN",
    help="Let pages of ORIGIN use the server: https://app.example.",
)  # fmt: skip
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="Another name that this machine is called by."
)
@reply_options
@engine_flags
@prompt_cache_option
@output_options
def command(
    *,
    model: str | None,
    host: str,
    port: int,
    unix_socket: Path | None,
    api_key: str | None,
    api_key_file: Path | None,
    parallel: int | None,
    n_waiting: int,
    aliases: tuple[str, ...],
    allow_switch: bool,
    lazy: bool,
    idle_unload_s: float | None,
    cors_origins: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    reply: ReplyOptions,
    engine: EngineOptions,
    output: Output,
    settings: Settings,
) -> None:
    """Serve a model to programs, over HTTP.

    Speaks OpenAI's API at /v1 (chat/completions, completions, embeddings, models) and Anthropic's at /v1/messages.
    /health, /ready and /metrics tell how it is; / is a page to chat with it.

    What the options say of answers holds where a request says nothing.

    Other machines do not reach it, unless --host says so, and then clients need a key. Ctrl-C lets answers under way
    finish, a second one does not.
    """
    options = ServerOptions(
        host=host,
        port=port,
        unix_socket=unix_socket,
        api_key=_key(api_key, api_key_file),
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        aliases=aliases if model is None else (model, *aliases),
        allow_switch=allow_switch,
        lazy=lazy,
        idle_unload_s=idle_unload_s,
        limits=ServerLimits(n_waiting=n_waiting),
    )
    if reply.overflow == "summarise":
        raise InvalidRequest("a server does not summarise prompts", "--overflow truncate-middle cuts them")
    engine = with_parallel(engine, parallel, model, "serve", settings=settings, output=output)
    opener = _Opener(model, engine, settings, output)
    source = ModelSource(opener.name, opener.open, opener.others)
    if (
        run_server(source, options, engine.n_parallel, _Notes(output, opener.name), reply.chat_options())
        is signal.SIGINT
    ):
        raise KeyboardInterrupt


class _Opener:
    """Finds and loads models."""

    def __init__(self, model: str | None, engine: EngineOptions, settings: Settings, output: Output) -> None:
        self._model = model
        self._engine = engine
        self._settings = settings
        self._output = output
        path = locate_model(model, settings)
        self.name = DEMO_NAME if path is None or path == converted_demo(settings) else model_name(path)

    def others(self) -> list[str]:
        """Names only, no files by their paths, and nothing is read: this is asked with every request."""
        names = [model_name(path) for path in first_files(self._settings.models_dir)]
        return names if converted_demo(self._settings) is None else [*names, DEMO_NAME]

    def open(self, name: str) -> OpenedModel:
        path = find_model(self._model if name == self.name else name, self._settings, self._output)
        with closing(WaitingChild()) as waiting:
            engine = load_engine(path, self._engine, self._settings)
            try:
                report_placement(engine, self._engine, self._output)
                chat = ChatModel(engine, waiting=waiting)
                _ = chat.capabilities  # renders the template's probes, before anybody waits for them
            except BaseException:
                engine.close()
                raise
        return OpenedModel(chat, EngineRunner(engine, self._engine.n_parallel), self._engine.n_parallel)


class _Notes(ServerEvents):
    """Says on standard error what happens."""

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name
        self._url = ""

    def listening(self, url: str) -> None:
        self._url = url
        self._output.note(f"listening at {url}")

    def ready(self) -> None:
        if self._output.json_mode:
            self._output.line(json.dumps({"url": self._url, "model": self._name}))
        self._output.note(f"serving {self._name} at {self._url} · Ctrl-C ends")

    def draining(self, n_under_way: int) -> None:
        self._output.note(f"{n_under_way} answers are under way; Ctrl-C again ends them")


def _key(given: str | None, file: Path | None) -> str | None:
    if given is not None and file is not None:
        raise InvalidRequest("--api-key and --api-key-file exclude each other", "leave one of them out")
    if file is None:
        return given
    with suppress(UnicodeDecodeError), file.open("rb") as opened:
        key = opened.read(_MOST_KEY_BYTES + 1).decode("ascii")
        if len(key) > _MOST_KEY_BYTES:
            raise InvalidRequest(f"{file} holds no key: it is longer than {_MOST_KEY_BYTES} bytes")
        return key.strip()
    raise InvalidRequest(f"{file} holds no key: it is not ASCII")
