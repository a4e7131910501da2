"""The TOML file of settings: where it is, what may stand in it, and where each setting came from. Knows no commands.

Flags are stronger than BRAMLEY_* variables, and those are stronger than the file.
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from platformdirs import user_config_path
from pydantic import AliasChoices
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from server.exit_codes import USAGE, CommandFailed

_MAX_BYTES = 1 << 20
NOT_IN_FILE = frozenset({"config"})


class ConfigInvalid(CommandFailed):
    """The file, or a variable of the environment, is not what it should be."""

    exit_code = USAGE


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting's value, and in words where it came from: "default", a flag, a variable, or the file."""

    name: str
    value: Any
    origin: str


def default_path() -> Path:
    """Where the file is looked for when neither --config nor BRAMLEY_CONFIG names one."""
    return user_config_path("bramley") / "config.toml"


class ConfigFileSource(PydanticBaseSettingsSource):
    """The settings of the file that `config` of the stronger sources names; none without a file."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the file is read as a whole."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The settings of the file. Raises ConfigInvalid."""
        path = self.current_state.get("config")
        return {} if path is None else read_config(Path(path).expanduser(), names_in_file(self.settings_cls))


def names_in_file(settings: type[BaseSettings]) -> list[str]:
    """The settings that the file may have; those that bear other tools' names are of the environment alone."""
    fields = settings.model_fields.items()
    return [name for name, field in fields if field.validation_alias is None and name not in NOT_IN_FILE]


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The settings of a file. Raises ConfigInvalid where it cannot be read, is no TOML, or has an unknown key."""
    try:
        with path.open("rb") as file:
            content = tomllib.loads(file.read(_MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"The configuration {path} is not TOML: {error}.") from None
    for name in content:
        if name not in known:
            raise ConfigInvalid(f"The configuration {path} has an unknown setting {name!r}{suggestion(name, known)}.")
    return content


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, where there is any."""
    nearest = get_close_matches(name.replace("-", "_").lower(), [each.lower() for each in known], n=1, cutoff=0.6)
    found = next((each for each in known if nearest and each.lower() == nearest[0]), None)
    return "" if found is None else f"; the nearest one is {found!r}"


def origins(settings: BaseSettings, flags: Collection[str], file: Mapping[str, Any]) -> list[Origin]:
    """Every setting with its origin.

    flags: names of settings that were given as flags
    file: what read_config gave
    """
    variables = EnvSettingsSource(type(settings))()
    return [
        Origin(name, getattr(settings, name), _origin(name, field.validation_alias, flags, variables, file))
        for name, field in type(settings).model_fields.items()
    ]


def _origin(
    name: str, alias: Any, flags: Collection[str], variables: Mapping[str, Any], file: Mapping[str, Any]
) -> str:
    if name in flags:
        return f"--{name.replace('_', '-')}"
    names = list(map(str, alias.choices)) if isinstance(alias, AliasChoices) else [alias or f"BRAMLEY_{name.upper()}"]
    if name in variables or any(each in variables for each in names):
        return next((each for each in names if each in variables), names[0])
    return "file" if name in file else "default"
