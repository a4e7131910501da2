"""The commands of `bramley`: which there are, and in which file. A file is imported when its command is asked for.

A new command is a function in a file of this package, its help in its docstring and its options, and one line below.
A file imports at its top what its signatures need, and everything else inside of the function that uses it: `--help`
imports all of these files.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

# In the order of the help: the command's name, and the function (or the Typer of several commands) in this package.
WHERE = {
    "serve": "serve.serve",
    "run": "run.run",
    "pull": "models.pull",
    "ls": "models.ls",
    "show": "models.show",
    "verify": "models.verify",
    "rm": "models.rm",
    "ps": "running.ps",
    "stop": "running.stop",
    "quantize": "weights.quantize",
    "convert": "weights.convert",
    "prune": "prune.prune",
    "distill": "distill.distill",
    "eval": "evaluate.evaluate",
    "doctor": "doctor.doctor",
    "connect": "connect.connect",
    "service": "service.app",
    "bench": "bench.app",
    "config": "config.app",
    "version": "version.version",
}


class Commands(Mapping[str, Any]):
    """Click's commands by name, each made when it is first looked at."""

    def __init__(self, where: Mapping[str, str]) -> None:
        self._where = where
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, function = self._where[name].partition(".")
            self._made[name] = _click_command(name, getattr(import_module(f"{__name__}.{module}"), function))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class CommandGroup(TyperGroup):
    """The program: a group whose commands are imported as they are needed."""

    def __init__(self, *, commands: Any = None, **options: Any) -> None:
        super().__init__(commands=commands, **options)
        self.commands: Any = Commands(WHERE)


def _click_command(name: str, made_of: Any) -> Any:
    if not isinstance(made_of, typer.Typer):
        function, made_of = made_of, typer.Typer(rich_markup_mode=None, add_completion=False)
        made_of.command(name)(function)
    command = typer.main.get_command(made_of)
    command.name = name
    return command
