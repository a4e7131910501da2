"""The settings with their values. The only reader of the environment; knows nothing of what the settings do."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_data_path
from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from engine.settings import EngineSettings
from server.config_file import ConfigFileSource, ConfigInvalid, default_path, suggestion
from server.options import Options

# Every other word, "auto" among them, is a no to huggingface_hub.
_YES = ("1", "ON", "YES", "TRUE")
_CHECKOUT = Path(__file__).resolve().parent.parent

# The variables that a worker sees: folders, languages and numbers of threads. No keys, no tokens.
_WORKER_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_WORKER_PREFIXES = ("LC_", "MLX_", "METAL_", "OMP_", "OPENBLAS_")

# Clients derive this name from a provider called "bramley" and read their key from it: it is no setting of ours.
_CLIENTS_VARIABLE = "BRAMLEY_API_KEY"


def _default_models_dir() -> Path:
    """The checkout's own `models/`, or the user's data folder where Bramley is installed without one."""
    checkout = _CHECKOUT / "models"
    return checkout if (checkout / "catalog.toml").is_file() else user_data_path("bramley") / "models"


class Settings(Options, BaseSettings):
    """The settings with their values: flags become arguments, then come BRAMLEY_* variables, then the file `config`.

    api_keys: each of them lets a client in, as do the keys of api_keys_file; never a flag, which `ps` would show
    """

    model_config = SettingsConfigDict(
        env_prefix="BRAMLEY_",
        env_ignore_empty=True,
        enable_decoding=False,
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    # The defaults that the machine tells.
    models_dir: Path = Field(default_factory=_default_models_dir)
    prefix_folder: Path = Field(default_factory=lambda: user_cache_path("bramley") / "prefixes")
    memory_file: Path = Field(default_factory=lambda: user_cache_path("bramley") / "memory.json")

    api_keys: tuple[SecretStr, ...] = ()

    # The names other tools give to Hugging Face's folders and switches are taken over unchanged.
    hf_home: Path | None = Field(default=None, validation_alias="HF_HOME")
    hf_hub_cache: Path | None = Field(
        default=None, validation_alias=AliasChoices("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    )
    hf_hub_offline: bool = Field(default=False, validation_alias=AliasChoices("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    ollama_models: Path | None = Field(default=None, validation_alias="OLLAMA_MODELS")
    xdg_cache_home: Path | None = Field(default=None, validation_alias="XDG_CACHE_HOME")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the strongest first."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, ConfigFileSource(settings_cls)

    @field_validator("models", "api_keys", "allowed_hosts", "allowed_origins", "pins", "aliases", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("aliases")
    @classmethod
    def _pairs(cls, aliases: tuple[str, ...]) -> tuple[str, ...]:
        for alias in aliases:
            name, sign, model = alias.partition("=")
            if not (name and sign and model):
                raise ValueError("an alias looks like gpt-4o=smollm2-135m")
        return aliases

    @field_validator("config", "models_dir", "memory_file", "prefix_folder", "api_keys_file")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @field_validator("hf_home", "hf_hub_cache", "xdg_cache_home", "ollama_models")
    @classmethod
    def _expand_variables(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.expandvars(path.expanduser()))

    @field_validator("hf_hub_offline", mode="before")
    @classmethod
    def _as_the_hub_reads_it(cls, value: Any) -> Any:
        return value.upper() in _YES if isinstance(value, str) else value

    @property
    def hub_cache(self) -> Path:
        """Where huggingface_hub keeps downloaded repositories."""
        if self.hf_hub_cache is not None:
            return self.hf_hub_cache
        cache_home = self.xdg_cache_home or Path.home() / ".cache"
        return (self.hf_home or cache_home / "huggingface") / "hub"

    @property
    def lm_studio_folders(self) -> tuple[Path, ...]:
        """Where LM Studio keeps models: in its home, which a file may name, or where older versions did."""
        named = Path.home() / ".lmstudio"
        pointer = Path.home() / ".lmstudio-home-pointer"
        if pointer.is_file():
            named = Path(pointer.read_text(encoding="utf-8", errors="replace").strip() or named)
        return named.expanduser() / "models", Path.home() / ".cache" / "lm-studio" / "models"

    @property
    def ollama_folders(self) -> tuple[Path, ...]:
        """Where Ollama keeps models: the folder that its variable names, else its usual places."""
        if self.ollama_models is not None:
            return (self.ollama_models,)
        return Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")

    @property
    def models_by_alias(self) -> dict[str, str]:
        """A person's own names and what they stand for."""
        return dict(alias.split("=", 1) for alias in self.aliases)

    def engine(self) -> EngineSettings:
        """The settings of a worker's engine: those of its names, and sizes in bytes."""
        names = {each.name for each in fields(EngineSettings)} & Settings.model_fields.keys() - {"prefix_folder"}
        return EngineSettings(
            **{name: getattr(self, name) for name in names},
            kv_bytes=None if self.kv_gb is None else int(self.kv_gb * 1e9),
            prefix_bytes=None if self.prefix_gb is None else int(self.prefix_gb * 1e9),
            prefix_folder=self.prefix_folder if self.prefix_disk_gb else None,
            prefix_disk_bytes=int(self.prefix_disk_gb * 1e9),
        )

    def keys(self) -> tuple[str, ...]:
        """All API keys in clear text, read anew from the file. Raises OSError when the file cannot be read."""
        from_file = () if self.api_keys_file is None else self.api_keys_file.read_text(encoding="utf-8").split()
        return (*(key.get_secret_value() for key in self.api_keys), *from_file)


def load_settings(**flags: Any) -> Settings:
    """The settings of a command: flags over variables over the configuration, which may lie in its usual place.

    Raises ConfigInvalid for a file that is not right and for an unknown BRAMLEY_* variable, and ValidationError.
    """
    known = [f"BRAMLEY_{name.upper()}" for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith("BRAMLEY_") and name not in known and name != _CLIENTS_VARIABLE:
            raise ConfigInvalid(f"The variable {name} is no setting{suggestion(name, known)}.")
    if "config" not in flags and not os.environ.get("BRAMLEY_CONFIG") and default_path().is_file():
        flags["config"] = default_path()
    return Settings(**flags)


def variables_in_use() -> list[str]:
    """The BRAMLEY_* variables that are set."""
    return sorted(name for name in os.environ if name.startswith("BRAMLEY_") and os.environ[name])


def worker_environment() -> dict[str, str]:
    """The environment of a worker process. It loads the very code that the parent runs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _WORKER_VARIABLES or name.startswith(_WORKER_PREFIXES)
    }
    return {**kept, "PYTHONPATH": str(_CHECKOUT)}
