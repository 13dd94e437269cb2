"""The command `citadel`: the operator's hand on a host, and what systemd runs.

Each command lives in a module of its own, which is imported when the command is called: `citadel status` must
not wait for what only the gateway needs. A module has a typer application `app`.
"""

import importlib
import sys
from collections.abc import Iterable

import typer

# In the order in which --help shows them: what a command is called, and whether it is a group of commands.
_COMMANDS = {
    "status": False,
    "top": False,
    "start": False,
    "stop": False,
    "restart": False,
    "reload": False,
    "models": True,
    "logs": False,
    "doctor": False,
    "plan": False,
    "keys": True,
    "audit": False,
    "usage": False,
    "database": True,
    "config": True,
    "run": True,
    "version": False,
}
# What moves services is one module.
_MODULES = dict.fromkeys(("start", "stop", "restart", "reload"), "control")

_HELP = """Look after the Citadel services of this host.

\b
  citadel status                 how everything is
  citadel top                    what it uses and does, each second
  citadel logs gateway -f        what the gateway does right now
  citadel restart MODEL          restart the engine of a model, and watch it load
  citadel models                 where each model is: awake, asleep, stopped
  citadel doctor                 what is wrong, and what to do about it
  citadel plan                   which models fit, where, and why

Exit codes: 0 done, 1 something does not run or failed, 2 wrong usage or configuration, 4 not permitted.
"""


def main() -> None:
    """Run the command that the command line names."""
    called = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    build_app([called] if called in _COMMANDS else _COMMANDS)(prog_name="citadel")


def build_app(names: Iterable[str] = tuple(_COMMANDS)) -> typer.Typer:
    """The command line's application with these of its commands; with all of them when none are named."""
    app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_nothing)
    modules = {_MODULES.get(name, name): _COMMANDS[name] for name in names}
    for module, is_group in modules.items():
        part: typer.Typer = importlib.import_module(f"citadel_llm.cli.{module}").app
        # Without a name, a part's commands stand beside the others, not below it.
        app.add_typer(part, name=module if is_group else None)
    return app


def _nothing() -> None:
    """No option of the command itself does anything; without this, one command alone would lose its name."""
