"""The command line: one file per command, each importing what it needs only when it runs.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found a difference, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from edgeprune.errors import EdgePruneError

COMMANDS = (
    "demo",
    "export",
    "inspect",
    "build",
    "run",
    "show",
    "verify",
    "eval",
    "bench",
    "estimate",
    "list",
    "doctor",
)
_INTERRUPTED = 130


class _Commands(click.Group):
    """Finds a command in the file of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]  # once edgeprune/cli/list.py is imported, the name list means that file in here

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgeprune.cli.{name}").command
        return command


def _print_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    from edgeprune import __version__

    click.echo(f"edgeprune {__version__}")
    for package in ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "torch", "transformers", "onnx"):
        try:
            click.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            click.echo(f"{package} not installed")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show versions."
)
def cli() -> None:
    """Export vision-language models with visual-token pruning to ONNX, and run them without PyTorch.

    \b
    edgeprune demo                                              see it work in a minute
    edgeprune export llava-1.5-7b --method visiondrop -o b/     host: checkpoint to ONNX bundle
    edgeprune run b/ photo.jpg "What is on the table?" --keep 64
    edgeprune build b/ --target orin-agx-64gb                   device: graphs to TensorRT engines
    edgeprune estimate llava-1.5-7b --method visiondrop         what it would take, on every device
    edgeprune list methods                                      what there is: methods, models, targets
    """


def main() -> NoReturn:
    """Run the command line; every failure is one line on stderr and an exit code."""
    try:
        cli.main(prog_name="edgeprune", standalone_mode=False)
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:  # click's word for Ctrl-C
        _fail("interrupted", _INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted", _INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = f"; see {context.command_path} --help" if context else ""
        _fail(f"error: {error.format_message().rstrip('.')}{where}", error.exit_code)
    except EdgePruneError as error:
        _fail(f"error: {error}", error.exit_code)
    except BrokenPipeError:  # the reader of our output left: nobody to tell
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:  # nothing may end in a traceback; whoever wants one can ask for it
        if os.environ.get("EDGEPRUNE_TRACEBACK"):
            raise
        _fail(f"internal error: {type(error).__name__}: {error}; EDGEPRUNE_TRACEBACK=1 shows where", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"edgeprune: {' '.join(message.split())}", err=True)
    sys.exit(code)
