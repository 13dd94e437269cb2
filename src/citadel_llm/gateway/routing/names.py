"""What a name that a client asks for stands for: a model, another name of one, or several by weight."""

import math
import random
from collections.abc import Iterable, Mapping

from citadel_llm.config.gateway import Alias
from citadel_llm.gateway.errors import ModelNotFoundError
from citadel_llm.gateway.routing.choice import key_of
from citadel_llm.gateway.routing.engine import PRIME, Seed, seed_of
from citadel_llm.gateway.routing.served import ServedModel
from citadel_llm.store import KeyRecord

_SHOWN_NAME = 64


class WeightedName:
    """A name that stands for several models: each gets its share, and a session stays with one of them.

    By weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): when a weight changes, no more
    sessions change their model than must.
    """

    def __init__(self, alias: Alias, models: Mapping[str, ServedModel]) -> None:
        self._targets: list[tuple[Seed, float, ServedModel]] = [
            (seed_of(f"{alias.name}/{target.model}"), target.weight, models[target.model])
            for target in alias.models
            if target.model in models
        ]

    def order(self, affinity: bytes) -> list[ServedModel]:
        """The models, the chosen one first; the others may stand in for it."""
        key = key_of(affinity) if affinity else random.randrange(PRIME)  # noqa: S311 - no secret
        scored = []
        for (factor, offset), weight, model in self._targets:
            share = ((key * factor + offset) % PRIME + 0.5) / PRIME
            scored.append((-math.log(share) / weight, model))
        scored.sort(key=lambda pair: pair[0])
        return [model for _, model in scored]


class Names:
    """All names of a gateway's models.

    Args:
        models: The models by their real names.
        aliases: The weighted ones of the configuration.
        fallbacks: For a model's name, the names of those that may answer in its stead.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        aliases: Iterable[Alias],
        fallbacks: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._models = models
        self._fallbacks = {
            name: [models[each] for each in others if each in models] for name, others in fallbacks.items()
        }
        self._direct: dict[str, list[ServedModel]] = {}
        self._direct_here: dict[str, list[ServedModel]] = {}
        self._weighted = {alias.name: WeightedName(alias, models) for alias in aliases}
        for model in models.values():
            for name in (model.name, *model.aliases):
                self.add(name, model)

    def add(self, name: str, model: ServedModel) -> None:
        """Make a name lead to a model, unless it leads somewhere already."""
        if name not in self._direct and name not in self._weighted:
            self._direct[name] = [model, *self._fallbacks.get(model.name, ())]
            self._direct_here[name] = [each.local for each in self._direct[name] if each.local.engines]

    def find(self, name: str) -> ServedModel:
        """The model behind a name; of a weighted one the first.

        Raises:
            ModelNotFoundError: There is none.
        """
        found = self._direct.get(name)
        if found is None:
            weighted = self._weighted.get(name)
            found = weighted.order(b"\0") if weighted is not None else None
        if not found:
            raise not_found(name)
        return found[0]

    def route(
        self, name: str, key: KeyRecord, affinity: bytes = b"", *, local_only: bool = False
    ) -> list[ServedModel]:
        """The models that may answer a request, the first choice first; not to be changed by the caller.

        Args:
            name: What the client asks for.
            key: Its key.
            affinity: What its request belongs to; decides which model of a weighted name it gets.
            local_only: Whether a peer sent it, so that it stays on this node.

        Raises:
            ModelNotFoundError: There is none, or none that the key may use: in the same words.
        """
        models = (self._direct_here if local_only else self._direct).get(name)
        everything = not key.models and key.scope != "admin"
        if models is None:
            weighted = self._weighted.get(name)
            chosen = weighted.order(affinity) if weighted is not None else []
            if not everything:
                chosen = [model for model in chosen if key.may_use(model.name)]
            models = self._stand_ins(chosen, local_only=local_only)
        elif not everything and not key.may_use(self._direct[name][0].name):
            # Without the model itself no stand-in either: it would tell that there is such a model.
            models = []
        if not everything:
            models = [model for model in models if key.may_use(model.name)]
        if not models:
            raise not_found(name)
        return models

    def _stand_ins(self, models: list[ServedModel], *, local_only: bool) -> list[ServedModel]:
        """The models of a weighted name, then the fallbacks of each."""
        for model in list(models):
            models += [each for each in self._fallbacks.get(model.name, ()) if each not in models]
        return [model.local for model in models if model.local.engines] if local_only else models


def not_found(name: str) -> ModelNotFoundError:
    """The error for a name that leads nowhere, or nowhere that the key may go."""
    shown = name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}…"
    message = f"The model '{shown}' does not exist here; GET /v1/models lists those that do."
    return ModelNotFoundError(message, param="model")
