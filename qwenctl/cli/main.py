"""The command table and the one error boundary of the program.

Command modules are imported when they run, never to list them: `qwenctl --help` imports click and this table only.
A module of the table holds one `qwenctl.cli.command.Command` named `command`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import click

from qwenctl import __version__
from qwenctl.cli import look_alikes
from qwenctl.cli.command import Program
from qwenctl.cli.lazy_group import Entry
from qwenctl.errors import ExitCode
from qwenctl.settings import Settings, native_defaults

COMMANDS: dict[str, Entry] = {
    "run": Entry("Use a model", "qwenctl.cli.commands.run", "Answer one prompt."),
    "chat": Entry("Use a model", "qwenctl.cli.commands.chat", "Talk with a model in the terminal."),
    "sessions": Entry(
        "Use a model", "qwenctl.cli.commands.sessions", "List the chats that are saved, and look after them."
    ),
    "batch": Entry("Use a model", "qwenctl.cli.commands.batch", "Answer a file of prompts."),
    "serve": Entry("Use a model", "qwenctl.cli.commands.serve", "Serve a model to programs, over HTTP."),
    "pull": Entry("Make models", "qwenctl.cli.commands.pull", "Get a model from a hub."),
    "convert": Entry("Make models", "qwenctl.cli.commands.convert", "Turn a Hugging Face checkpoint into a GGUF file."),
    "quantize": Entry("Make models", "qwenctl.cli.commands.quantize", "Turn a GGUF file into one of another type."),
    "imatrix": Entry(
        "Make models", "qwenctl.cli.commands.imatrix", "Gather statistics of activations that make quantization better."
    ),
    "show": Entry("Look at models", "qwenctl.cli.commands.show", "Say what a GGUF file holds."),
    "verify": Entry("Look at models", "qwenctl.cli.commands.verify", "Check a GGUF file for damage."),
    "experts": Entry(
        "Look at models", "qwenctl.cli.commands.experts", "Show which experts a Mixture-of-Experts model uses."
    ),
    "eval": Entry("Look at models", "qwenctl.cli.commands.eval", "Measure how good models are on a text."),
    "models": Entry(
        "Look at models", "qwenctl.cli.commands.models", "List the models that are here, and look after them."
    ),
    "cache": Entry(
        "Look at models",
        "qwenctl.cli.commands.cache",
        "List the computed prompts that are kept on disk, and remove them.",
    ),
    "config": Entry("Machines", "qwenctl.cli.commands.config", "Say what is configured, and where it comes from."),
    "completion": Entry(
        "Machines",
        "qwenctl.cli.commands.completion",
        "Write a script that completes qwenctl's words in a shell.",
    ),
    "bench": Entry(
        "Machines", "qwenctl.cli.commands.bench", "Measure how fast a model is on this machine, or a server anywhere."
    ),
    "plan": Entry("Machines", "qwenctl.cli.commands.plan", "Say what fits a machine, how fast, and how to run it."),
    "worker": Entry(
        "Machines", "qwenctl.cli.commands.worker", "Lend this machine's devices to models that run on another."
    ),
    "doctor": Entry(
        "Machines", "qwenctl.cli.commands.doctor", "Say what this machine has for models, and what is wrong."
    ),
}


@click.group(
    cls=Program,
    entries=COMMANDS,
    invoke_without_command=True,
    examples=[
        "qwenctl                                         # what suits this machine",
        "qwenctl pull qwen3:30b-a3b",
        'qwenctl run "Why is the sky blue?"',
        "qwenctl chat --continue",
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="qwenctl COMMAND --help shows a command's options and examples.",
)
@click.version_option(__version__, "-V", "--version", message="qwenctl %(version)s", help="Show the version and exit.")
@click.pass_context
def cli(context: click.Context) -> None:
    """Convert Hugging Face checkpoints to 4-bit GGUF and run them on llama.cpp.

    Without a command it says which models suit this machine, and how to start.

    Answers and data go to standard output; progress, reasoning and notes go to standard error.
    """
    if context.invoked_subcommand is None:
        import_module("qwenctl.cli.first_screen").show_first_screen(context.obj)


def main() -> NoReturn:
    """Run the program on the process's own arguments and end the process."""
    _occupy_standard_streams()
    _choose_encodings()
    code = run_command_line(sys.argv[1:])
    _abandon_broken_stdout()
    sys.exit(code)


def run_command_line(args: Sequence[str]) -> int:
    """Run one command line; return the exit code. Errors have been printed on standard error."""
    debug = plain = False
    try:
        settings = Settings.from_environment(os.environ)
        debug, plain = settings.debug, settings.plain
        os.environ.update(native_defaults(os.environ))
        result = cli.main(args=list(args), prog_name="qwenctl", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED
    except SystemExit as error:  # click's answer to a broken pipe
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
    except Exception as error:
        # Imported here because the table of errors is needed by failing runs only.
        command = " ".join(["qwenctl", *(word for word in args[:1] if word in COMMANDS)])
        return int(import_module("qwenctl.cli.errors").report(error, debug=debug, plain=plain, command=command))
    return result if isinstance(result, int) else ExitCode.DONE


def _occupy_standard_streams() -> None:
    """Point closed standard descriptors at the null device.

    Otherwise the next file that is opened gets number 1, and whatever writes to standard output writes into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _choose_encodings() -> None:
    """Let no text fail to be written: files and pipes get UTF-8, a terminal its own encoding, with look-alikes.

    File names that are no UTF-8 come out as the bytes they are.
    """
    look_alikes.register_look_alikes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            is_utf8 = encoding.lower().replace("-", "").replace("_", "") == "utf8"
            stream.reconfigure(encoding=encoding, errors="surrogateescape" if is_utf8 else look_alikes.NAME)


def _abandon_broken_stdout() -> None:
    """Make the interpreter's last flush harmless after the reader of a pipe has gone.

    Source: "Note on SIGPIPE" in the documentation of Python's signal module.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
