"""From settings and stored models to a registry of served ones. Starts no process."""

from collections.abc import Callable, Sequence
from pathlib import Path

from server.models.footprint import Measurements, default_budget
from server.models.registry import Registry
from server.models.residency import Residency
from server.models.served_model import ServedModel
from server.models.text import ModelText
from server.settings import Settings
from server.store.store import Store
from server.store.stored_model import StoredModel
from server.worker.supervisor import Supervisor, SupervisorLimits


def build_registry(
    settings: Settings,
    find: Callable[[str], StoredModel],
    store: Store | None,
    command: Sequence[str],
    read_text: Callable[[Path], ModelText],
) -> Registry:
    """The models of the settings, and behind them those of the store.

    find: the model of a name of the settings
    Raises StoreError for a model that is not here, and ModelNotFound for an alias or a pin of one.
    """
    residency = Residency(
        default_budget() if settings.memory_budget_gb is None else int(settings.memory_budget_gb * 1e9),
        idle_seconds=None if settings.idle_minutes is None else 60 * settings.idle_minutes,
        patience_seconds=settings.patience_seconds,
        queue_seconds=settings.load_seconds,
    )
    measurements = Measurements(settings.memory_file)
    limits = SupervisorLimits(
        max_queue=settings.max_queue,
        load_seconds=settings.load_seconds,
        stale_seconds=settings.silence_stale_seconds,
        dead_seconds=settings.silence_dead_seconds,
    )

    def serve(stored: StoredModel, aliases: Sequence[str] = ()) -> ServedModel:
        return ServedModel(
            stored,
            Supervisor(stored.id, stored.path, command=command, limits=limits, engine=settings.engine()),
            residency,
            measurements,
            aliases=aliases,
            context_length=settings.context_length,
            read_text=read_text,
        )

    models = [serve(find(name), [name]) for name in settings.models]
    registry = Registry(models, residency, store=store, serve=serve, aliases=settings.models_by_alias)
    for name in settings.pins:
        registry.find(name).pinned = True
    for name in settings.models_by_alias:
        registry.find(name)
    return registry
