"""Every setting with its default, once. The only reader of the environment; knows nothing of what the settings do."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from engine.settings import EngineSettings, Kernels
from server.config_file import ConfigFileSource, ConfigInvalid, default_path, suggestion

_CHECKOUT = Path(__file__).resolve().parent.parent

# What a worker may see of the environment: where things are, how to speak, how many threads to use. No keys, no tokens.
_WORKER_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_WORKER_PREFIXES = ("LC_", "MLX_", "METAL_", "OMP_", "OPENBLAS_")

# Clients derive this name from a provider called "bramley" and read their key from it: it is theirs, not a setting.
_CLIENTS_VARIABLE = "BRAMLEY_API_KEY"

Names = Annotated[tuple[str, ...], NoDecode]


def _default_models_dir() -> Path:
    """The checkout's own `models/`, or the user's data folder where Bramley is installed without one."""
    checkout = _CHECKOUT / "models"
    return checkout if (checkout / "catalog.toml").is_file() else user_data_path("bramley") / "models"


class Settings(BaseSettings):
    """What a person can set: flags become arguments, then come BRAMLEY_* variables, then the file `config`.

    Lists are comma-separated in variables, and arrays in the file.
    config: the TOML file to read, with these names as keys; None reads none
    models: names to serve; the first answers requests that name none
    api_keys, api_keys_file: any of them opens the door (one per line in the file); never flags, which `ps` would show
    allowed_hosts, allowed_origins: besides the local ones; "*" allows all
    allow_insecure: bind a public address without a key
    context_length: tokens of prompt and answer together; None takes the model's own
    endless: go on past the context, without the oldest tokens
    default_max_tokens: for chat requests that set none; None goes on until the context ends
    max_queue: HTTP requests that generate or wait, per model
    max_rows: sequences that run at once; the rest waits
    max_gap_ms: how long a running stream may wait for its next token while others' prompts are read
    bits: pack weights in so many bits as they are loaded; None leaves them as they are
    kv_bits: 8 or 4 keeps keys and values quantised
    kv_gb: memory for keys and values of running requests, in 10^9 bytes; None takes what the machine has to spare
    prefix_gb: memory for those of earlier requests; None is a third of kv_gb, 0 keeps none
    prefix_folder, prefix_disk_gb: where they are also kept for later runs, and how much; 0 keeps none
    memory_budget_gb: what all loaded models may take together, in 10^9 bytes; None is three quarters of the machine's
    memory_file: where it is remembered what each model took
    idle_minutes: a model unused for that long is unloaded; None keeps it until its memory is needed
    patience_seconds: how long a model may wait for another one to become idle, before that takes nothing new
    pins: models that are never unloaded once they are loaded
    aliases: a person's own names for models, as NAME=MODEL
    kernels, threads: of the CPU: "off" leaves MLX's own; None is one thread per usable CPU
    """

    model_config = SettingsConfigDict(
        env_prefix="BRAMLEY_",
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    config: Path | None = None
    models: Names = ("smollm2-135m",)
    models_dir: Path = Field(default_factory=_default_models_dir)
    context_length: int | None = Field(default=None, ge=1)
    endless: bool = False
    default_max_tokens: int | None = Field(default=None, ge=1)

    max_rows: int = Field(default=16, ge=1, le=256)
    max_gap_ms: float = Field(default=200.0, ge=10)
    bits: Literal[2, 3, 4, 5, 6, 8] | None = None
    kv_bits: Literal[4, 8] | None = None
    kv_gb: float | None = Field(default=None, gt=0)
    prefix_gb: float | None = Field(default=None, ge=0)
    prefix_folder: Path = Field(default_factory=lambda: user_cache_path("bramley") / "prefixes")
    prefix_disk_gb: float = Field(default=4.0, ge=0)
    memory_budget_gb: float | None = Field(default=None, gt=0)
    memory_file: Path = Field(default_factory=lambda: user_cache_path("bramley") / "memory.json")
    idle_minutes: float | None = Field(default=None, gt=0)
    patience_seconds: float = Field(default=15.0, ge=0)
    pins: Names = ()
    aliases: Names = ()
    kernels: Kernels = "native"
    threads: int | None = Field(default=None, ge=1, le=1024)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    allowed_hosts: Names = ()
    allowed_origins: Names = ()
    allow_insecure: bool = False

    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    max_header_bytes: int = Field(default=64 * 2**10, ge=1024)
    max_queue: int = Field(default=1024, ge=1)
    listen_backlog: int = Field(default=2048, ge=1)
    read_timeout_seconds: float = Field(default=30.0, gt=0)
    stalled_reader_seconds: float = Field(default=30.0, gt=0)
    keep_alive_seconds: int = Field(default=75, ge=1)
    drain_seconds: float = Field(default=30.0, ge=0)
    load_seconds: float = Field(default=600.0, gt=0)
    silence_stale_seconds: int = Field(default=8, ge=1)
    silence_dead_seconds: int = Field(default=25, ge=2)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    # The names other tools give to Hugging Face's folders and switches are taken over unchanged.
    hf_home: Path | None = Field(default=None, validation_alias="HF_HOME")
    hf_hub_cache: Path | None = Field(default=None, validation_alias="HF_HUB_CACHE")
    hf_hub_offline: bool = Field(default=False, validation_alias="HF_HUB_OFFLINE")
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

    @field_validator(
        *("config", "models_dir", "memory_file", "prefix_folder", "api_keys_file"),
        *("hf_home", "hf_hub_cache", "xdg_cache_home"),
    )
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @property
    def hub_cache(self) -> Path:
        """Where huggingface_hub keeps downloaded repositories."""
        if self.hf_hub_cache is not None:
            return self.hf_hub_cache
        cache_home = self.xdg_cache_home or Path.home() / ".cache"
        return (self.hf_home or cache_home / "huggingface") / "hub"

    @property
    def models_by_alias(self) -> dict[str, str]:
        """A person's own names and what they stand for."""
        return dict(alias.split("=", 1) for alias in self.aliases)

    def engine(self) -> EngineSettings:
        """What a worker's engine is told."""
        return EngineSettings(
            max_rows=self.max_rows,
            max_gap_ms=self.max_gap_ms,
            bits=self.bits,
            kv_bits=self.kv_bits,
            kv_bytes=None if self.kv_gb is None else int(self.kv_gb * 1e9),
            prefix_bytes=None if self.prefix_gb is None else int(self.prefix_gb * 1e9),
            prefix_folder=self.prefix_folder if self.prefix_disk_gb else None,
            prefix_disk_bytes=int(self.prefix_disk_gb * 1e9),
            context_length=self.context_length,
            endless=self.endless,
            kernels=self.kernels,
            threads=self.threads,
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
