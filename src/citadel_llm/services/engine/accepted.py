"""What a model answered when it was accepted on this host: written down once, and held against each start.

It is accepted when it comes up for the first time, and anew when it is another model than before: other
weights, another build, another layout. It is not accepted anew because its answers changed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from citadel_llm.config import Model, Settings
from citadel_llm.placement.calibration import variant_of
from citadel_llm.services.engine import acceptance
from citadel_llm.services.engine.client import EngineClient
from citadel_llm.services.errors import ConfigurationError

FILE = "accepted.json"
"""Its name, in the state folder of the engine's service."""

STATES = Path("/var/lib/citadel/engine")
"""Where the engines' services have their state folders, each under its engine's name."""

_FORMAT = 1
_MANIFEST = ".citadel-weights.json"


class NotAcceptedError(ConfigurationError):
    """The model does not answer as it did. Another start would find the same, so none is tried."""


@dataclass(frozen=True)
class Accepted:
    """A model's answers when it was accepted.

    Attributes:
        made_from: What made the model what it was, by name.
        when: When, in UTC.
        sample: What it answered.
    """

    made_from: dict[str, str]
    when: str
    sample: acceptance.Sample

    def write(self, folder: Path) -> None:
        """Keep it in a folder.

        Raises:
            OSError: It cannot be written.
        """
        draft = folder / f"{FILE}.new"
        draft.write_text(json.dumps({"format": _FORMAT, **asdict(self)}) + "\n", encoding="utf-8")
        # For everyone on the host, whatever the service's umask: who wakes the model compares with it, too.
        draft.chmod(0o644)
        draft.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Accepted | None":
        """What was kept in a folder; none when nothing was, or in another form."""
        try:
            tree = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if tree["format"] != _FORMAT:
                return None
            sample, values = tree["sample"], tree["sample"]["values"]
            rows = tuple(tuple(float(each) for each in row) for row in values)
            return cls(dict(tree["made_from"]), str(tree["when"]), acceptance.Sample(sample["kind"], rows))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def forget(folder: Path) -> bool:
    """Have the next start of an engine accept its model as it then is.

    Args:
        folder: The state folder of the engine's service.

    Returns:
        Whether anything was known.

    Raises:
        OSError: It cannot be taken away: the folder is the engine's, so this wants root.
    """
    try:
        (folder / FILE).unlink()
    except FileNotFoundError:
        return False
    return True


def made_from(settings: Settings, model: Model, version: str) -> dict[str, str]:
    """What makes a model what it is: while all of it is the same, so must its answers be.

    Args:
        settings: The host's settings.
        model: The model, with the plan of this engine.
        version: The engine's version.
    """
    plan = model.plan
    sizes = (plan.tensor_parallel_size, plan.pipeline_parallel_size) if plan else (0, 0)
    return {
        "weights": _weights(model.folder(settings.models_root)),
        "settings": hashlib.sha256(variant_of(model).encode()).hexdigest(),
        "layout": f"{sizes[0]} x {sizes[1]}",
        "engine": f"{model.runtime} {settings.engine.build} {version}".rstrip(),
        "questions": hashlib.sha256(repr(acceptance.TEXTS).encode()).hexdigest(),
    }


async def hold(
    client: EngineClient,
    model: Model,
    folder: Path | None,
    origin: dict[str, str],
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Hold a model that has just started against what was accepted; what was not yet known is accepted.

    Args:
        client: A connection to its engine.
        model: The model.
        folder: Where what was accepted is kept; without one there is nothing to compare with.
        origin: See `made_from`.
        log: Told what is accepted, and why.

    Raises:
        NotAcceptedError: It answers otherwise.
        EngineError: It does not answer.
    """
    try:
        now = await acceptance.take(client, model)
    except acceptance.NonsenseError as error:
        raise NotAcceptedError(f"{error}: {_remedy(model)}") from None
    if folder is None:
        return
    known = Accepted.read(folder)
    changed = sorted(name for name in origin if known is None or known.made_from.get(name) != origin[name])
    if known is not None and not changed:
        verdict = acceptance.compare(known.sample, now, model.engine.acceptance_tolerance)
        if not verdict.same:
            raise NotAcceptedError(_differs(model, known, verdict))
        log.info("the model answers as it did when it was accepted", apart=verdict.words, accepted=known.when)
        return
    when = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        Accepted(origin, when, now).write(folder)
    except OSError as error:
        log.warning("what the model answers could not be written down", error=str(error))
        return
    why = f"changed: {', '.join(changed)}" if known else "nothing was accepted before"
    log.info("the model is accepted: its next starts must answer like this one", why=why)


async def recall(client: EngineClient, model: Model, folder: Path) -> acceptance.Verdict | None:
    """Compare what a model answers now, after it was woken, with what was accepted.

    Args:
        client: A connection to its engine.
        model: The model.
        folder: The state folder of its engine's service.

    Returns:
        How far they are apart; none when nothing was accepted.

    Raises:
        EngineError: It does not answer, or not with numbers.
    """
    known = Accepted.read(folder)
    if known is None or not model.engine.acceptance:
        return None
    return acceptance.compare(
        known.sample, await acceptance.take(client, model), model.engine.acceptance_tolerance
    )


def _weights(folder: Path) -> str:
    """The checksum of the weights' manifest; where there is none, of their files' names, sizes and times."""
    try:
        told = (folder / _MANIFEST).read_bytes()
    except OSError:
        files = sorted(path for path in folder.glob("*") if path.is_file())
        told = repr([(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]).encode()
    return hashlib.sha256(told).hexdigest()


def _differs(model: Model, known: Accepted, verdict: acceptance.Verdict) -> str:
    return (
        f"the model does not answer as it did when it was accepted ({known.when}): {verdict.words}: "
        f"{_remedy(model)}; if this is how it should answer, citadel models accept {model.name}"
    )


def _remedy(model: Model) -> str:
    return f"try citadel restart {model.name}, and verify its weights (deploy with -e models_verify=true)"
