"""A host in simulated time: requests come, models move as long as they take, and the policy decides."""

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from citadel_llm.residency.holding import Holding, State
from citadel_llm.residency.policy import Action, Policy, Step

_TICK_SECONDS = 1.0
# Against a policy that goes round in circles, and one that lets somebody wait for ever.
_MOST_ROUNDS = 1000
_LONGEST_WAIT_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, for which model, and how long the awake model takes for it."""

    at: float
    model: str
    seconds: float


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        waits: Each request's model, and the seconds that it waited, in the order of the answers.
        moves: How often each action was taken.
        end: When the last request was answered.
    """

    waits: list[tuple[str, float]] = field(default_factory=list)
    moves: dict[Action, int] = field(default_factory=lambda: dict.fromkeys(Action, 0))
    end: float = 0.0


class BrokenPolicyError(Exception):
    """The policy promised more memory than there is, took a model from a request, or never came to an end."""


class Simulation:
    """One host and its models, through a list of arrivals.

    Args:
        policy: Decides.
        models: The host's models, all cold; the policy's view and the truth are one here.
        arrivals: What comes, in any order.
    """

    def __init__(self, policy: Policy, models: Sequence[Holding], arrivals: Iterable[Arrival]) -> None:
        self.policy = policy
        self.models: Mapping[str, Holding] = {model.name: model for model in models}
        self.outcome = Outcome()
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, str, object]] = []
        self._waiting: dict[str, list[Arrival]] = {name: [] for name in self.models}
        self._target: dict[str, State] = {}
        self._ticking = False
        for arrival in arrivals:
            self._push(arrival.at, "arrival", arrival)

    def run(self) -> Outcome:
        """Run to the end of the last request.

        Raises:
            BrokenPolicyError: The policy did what it must not.
        """
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            if kind == "arrival" and isinstance(what, Arrival):
                self.models[what.model].demand.note(now)
                self._waiting[what.model].append(what)
            elif kind == "answered" and isinstance(what, str):
                self.models[what].leases -= 1
                self.outcome.end = now
            elif kind == "moved" and isinstance(what, str):
                self.models[what].goes(self._target.pop(what), now)
            else:
                self._ticking = False
            self._serve(now)
            self._follow(now)
            self._serve(now)
            self._check()
            oldest = min((ones[0].at for ones in self._waiting.values() if ones), default=now)
            if now - oldest > _LONGEST_WAIT_SECONDS:
                raise BrokenPolicyError("somebody waits for ever")
            if any(self._waiting.values()) and not self._ticking:
                self._ticking = True
                self._push(now + _TICK_SECONDS, "tick", None)
        return self.outcome

    def _push(self, at: float, kind: str, what: object) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, what))

    def _serve(self, now: float) -> None:
        for name, model in self.models.items():
            if model.state is State.AWAKE and not model.closed:
                for arrival in self._waiting[name]:
                    model.leases += 1
                    self.outcome.waits.append((name, now - arrival.at))
                    self._push(now + arrival.seconds, "answered", name)
                self._waiting[name].clear()
            model.waiting = [arrival.at for arrival in self._waiting[name]]

    def _follow(self, now: float) -> None:
        """Do what the policy says until it has nothing more to say."""
        for _ in range(_MOST_ROUNDS):
            steps = self.policy.decide(self.models.values(), now)
            if not steps:
                return
            for step in steps:
                self._take(step, now)
        raise BrokenPolicyError(f"it does not come to an end: {steps}")

    def _take(self, step: Step, now: float) -> None:
        model, costs = self.models[step.model], self.models[step.model].costs
        self.outcome.moves[step.action] += 1
        match step.action:
            case Action.OPEN | Action.CLOSE:
                model.closed = step.action is Action.CLOSE
                return
            case Action.WAKE:
                seconds = costs.wake if model.state is State.ASLEEP else costs.start
                self._target[model.name] = State.AWAKE
                model.goes(State.WAKING, now)
            case Action.SLEEP | Action.STOP:
                if model.leases:
                    raise BrokenPolicyError(f"{model.name} was taken from {model.leases} requests")
                if step.wanted_by:
                    self.models[step.wanted_by].promised = True
                seconds = costs.leave
                self._target[model.name] = State.ASLEEP if step.action is Action.SLEEP else State.COLD
                model.goes(State.LEAVING, now)
        model.closed = False
        self._push(now + seconds, "moved", model.name)

    def _check(self) -> None:
        short = {device: size for device, size in self.policy.free(self.models.values()).items() if size < 0}
        asleep = sum(model.held_of_host for model in self.models.values() if model.state is State.ASLEEP)
        if short or asleep > self.policy.host_bytes:
            raise BrokenPolicyError(f"{short}, {asleep} of {self.policy.host_bytes} bytes of the host's")


@dataclass(frozen=True)
class FirstComeFirstServed(Policy):
    """What swapping proxies do: who comes first gets its model, and the model longest unused makes room."""

    minimum_stay: float = 0.0
    patience: float = 0.0

    def price(self, model: Holding, action: Action, now: float, horizon: float) -> float:  # noqa: ARG002
        """The longer unused, the cheaper; what sleeps goes to sleep again where it can."""
        return 1 / (1 + model.demand.unused(now)) + (action is Action.STOP) * 1e-6
