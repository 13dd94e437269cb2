"""From a host's settings, and what is known of its models' files, to what is to be placed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from citadel_llm.config import FolderSource, HubSource, Model, Settings
from citadel_llm.placement.memory import memory_of
from citadel_llm.placement.numbers import Numbers, numbers_of_catalogue, numbers_of_files
from citadel_llm.placement.options import Wish
from citadel_llm.placement.terms import GIB, PlacementError

# What `model_files.py` answers for each folder that it was asked about.
Answers = Mapping[str, Mapping[str, Any]]

# How far the weights that the catalogue describes may be from those in the files: what is stored beside the
# parameters (buffers, scales of quantized layers) varies a little with who wrote the files.
_TOLERANCE = 0.02


def folders_of(settings: Settings, model: Model) -> Iterator[Path]:
    """Where a model's files may be, on its host: in place, or still at their source."""
    yield model.folder(settings.models_root)
    if isinstance(model.source, FolderSource):
        yield model.source.path


def of_the_hub(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the hub told, by `repository@revision`, as answers beside those of folders."""
    return {_on_the_hub(name): {"tensors": None, "note": "", **told} for name, told in numbers.items()}


def _on_the_hub(name: str) -> str:
    return f"{name} on the hub"


def wishes_of(settings: Settings, answers: Answers) -> tuple[list[Wish], list[PlacementError]]:
    """What is to be placed, and what cannot be planned with.

    What the catalogue writes of a model goes before its files, so that a plan is the same before and after
    they are fetched; where the two contradict each other, that is a fault.

    Args:
        settings: The host's settings.
        answers: What is known of its folders. One that is not there is no fault: the weights come later.
    """
    wishes, faults = [], []
    for at, model in enumerate(settings.models):
        entry = f"models[{at}]"
        if not model.served:
            wishes.append(Wish(model, None, entry))
            continue
        try:
            numbers = _numbers_of(settings, model, entry, answers)
            wishes.append(
                Wish(model, memory_of(model, numbers, settings.engine.build, entry), entry, numbers)
            )
        except PlacementError as error:
            faults.append(error)
    return wishes, faults


def _numbers_of(settings: Settings, model: Model, entry: str, answers: Answers) -> Numbers:
    found = None
    places = [str(folder) for folder in folders_of(settings, model)]
    if isinstance(model.source, HubSource):
        places.append(_on_the_hub(f"{model.source.repository}@{model.source.revision}"))
    for folder in places:
        if folder in answers and not _is_absent(folder, answers[folder]):
            try:
                found = numbers_of_files(folder, answers[folder])
            except PlacementError as error:
                whose = f"{error.message} (the files of {entry}, {model.name})"
                raise PlacementError(error.entry, whose, error.remedy) from None
            break
    if model.architecture is None and found is not None:
        return found
    written = numbers_of_catalogue(model, entry)
    if found is not None:
        _agree(settings, model, entry, written, found)
    return written


def _is_absent(folder: str, answer: Mapping[str, Any]) -> bool:
    return answer.get("error") == f"{folder}/config.json: cannot be read: No such file or directory"


def _agree(settings: Settings, model: Model, entry: str, written: Numbers, found: Numbers) -> None:
    """Refuse a catalogue that describes another model than the files hold.

    Raises:
        PlacementError: It does.
    """
    build = settings.engine.build
    ours = memory_of(model, written, build, entry).weight_bytes
    theirs = memory_of(model, found, build, entry).weight_bytes
    if abs(ours - theirs) > _TOLERANCE * theirs:
        raise PlacementError(
            written.entry,
            f"describes {ours / GIB:.2f} GiB of weights, {found.origin} hold {theirs / GIB:.2f}",
            f"copy the keys from {found.entry} there, or leave {entry}.architecture out",
        )
