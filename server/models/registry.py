"""Which models are served, under which names. Knows the store and what is in memory; knows nothing of HTTP."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from server.errors import ModelNotFound
from server.models.residency import Residency
from server.models.served_model import ServedModel
from server.store.errors import StoreError
from server.store.store import Store
from server.store.stored_model import StoredModel
from server.worker.supervisor import Health


class Registry:
    """The models that can be served: those named at the start, the first of which is the default, and all of the store.

    serve: makes a model of the store a served one
    store: None serves nothing but those named at the start
    aliases: a person's own names for models
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        residency: Residency,
        *,
        store: Store | None = None,
        serve: Callable[[StoredModel], ServedModel] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.residency = residency
        self.store = store
        self._serve = serve
        self._aliases = dict(aliases or {})
        self._named = tuple(models)
        self._models = {model.name: model for model in models}
        by_alias = {alias: model for model in reversed(models) for alias in model.aliases}
        self._by_alias = {alias: model for alias, model in by_alias.items() if alias not in self._models}

    @property
    def named(self) -> tuple[ServedModel, ...]:
        """The models named at the start, the default first."""
        return self._named

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All that were asked for at some time, the default first."""
        return tuple(self._models.values())

    @property
    def default(self) -> ServedModel:
        """The model that answers requests which name none."""
        return self._named[0]

    def aliases_of(self, model: ServedModel) -> list[str]:
        """Other names of a model, a person's own included."""
        own = [alias for alias, name in self._aliases.items() if name in (model.name, *model.aliases)]
        return list(dict.fromkeys([*own, *model.aliases]))

    def own_aliases(self) -> list[tuple[str, str]]:
        """The names that a person has given to models, each with the model's name."""
        names = self._aliases.items()
        return [(alias, self.find(alias).name) for alias, name in names if self._is_known(name)]

    def find(self, name: str) -> ServedModel:
        """The model of that name, alias or unambiguous last part of a name; the default for no name.

        Raises ModelNotFound. Reads the store's manifests, loads nothing.
        """
        if not name:
            return self.default
        name = self._aliases.get(name, name)
        if name in self._models and self._models[name] in self._named:
            return self._models[name]
        if name in self._by_alias:
            return self._by_alias[name]
        return self._stored(name) or self._by_last_part(name) or self._missing()

    def _is_known(self, name: str) -> bool:
        try:
            self.find(name)
        except ModelNotFound:  # removed from the store since the start
            return False
        return True

    def all(self) -> Sequence[ServedModel]:
        """Everything that can be served: the default, the others named at the start, the rest of the store by id."""
        stored = () if self.store is None else self.store.list()
        return [*self._named, *(self._as_served(each) for each in stored if each.id not in self._named_ids)]

    def spawn(self) -> None:
        """Start the default model's worker, before there is an event loop. Raises ModelTooLarge."""
        self.residency.admit(self.default)
        self.default.spawn()

    def start(self) -> None:
        """Begin to listen to the default model's worker. The others wait until somebody asks for them."""
        if self.residency.residence(self.default) is not None:
            self.default.begin()

    def health(self) -> Health:
        """The default model's health: what makes this server useful."""
        return self.default.supervisor.health

    async def close(self) -> None:
        """End all workers."""
        self.residency.close()
        await asyncio.gather(*(model.close() for model in self._models.values()))

    @property
    def _named_ids(self) -> frozenset[str]:
        return frozenset(model.name for model in self._named)

    def _stored(self, name: str) -> ServedModel | None:
        if self.store is None:
            return None
        try:
            stored = self.store.find(name)
        except StoreError:
            return None
        return self._models[stored.id] if stored.id in self._named_ids else self._as_served(stored)

    def _by_last_part(self, name: str) -> ServedModel | None:
        """`Qwen3-0.6B` for `Qwen/Qwen3-0.6B`, in any case, where only one model is meant."""
        if "/" in name:
            return None
        matches = [model for model in self.all() if model.name.rpartition("/")[2].lower() == name.lower()]
        return matches[0] if len(matches) == 1 else None

    def _as_served(self, stored: StoredModel) -> ServedModel:
        """The one object that stands for these files; another one where they are others than before."""
        known = self._models.get(stored.id)
        if known is not None and (known.stored == stored or self.residency.residence(known) is not None):
            return known
        assert self._serve is not None  # noqa: S101  # a store comes with it
        self._models[stored.id] = model = self._serve(stored)
        return model

    def _missing(self) -> ServedModel:
        raise ModelNotFound(tuple(model.name for model in self.all()))
