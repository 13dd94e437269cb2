"""The numbers of a model that the arithmetic starts from: of its files, or as the catalogue writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from citadel_llm.config.schema import Model

from .terms import PlacementError


@dataclass(frozen=True)
class Numbers:
    """What is known of a model without loading it.

    Attributes:
        config: The content of its config.json.
        weight_bytes: Size of its weights as stored, in bytes; none when it is to be computed.
        tensors: What the headers of its files tell, as `model_files.summarize` gives it; none without files.
        origin: Where the numbers come from, for people.
        entry: What to change when one of them is wrong, such as `models[2].architecture` or a file's path.
    """

    config: Mapping[str, Any]
    weight_bytes: int | None
    tensors: Mapping[str, Any] | None
    origin: str
    entry: str


def numbers_of_files(folder: str, answer: Mapping[str, Any]) -> Numbers:
    """The numbers of a folder that `model_files.py` has read, perhaps on another host.

    Raises:
        PlacementError: It could not read the folder.
    """
    if "error" in answer:
        entry, _, message = str(answer["error"]).partition(": ")
        raise PlacementError(entry, message, "fetch the model again, or write its numbers in the catalogue")
    note = f" ({answer['note']})" if answer.get("note") else ""
    return Numbers(
        config=answer["config"],
        weight_bytes=answer["weight_bytes"],
        tensors=answer["tensors"],
        origin=f"the files in {folder}{note}",
        entry=f"{folder}/config.json",
    )


def numbers_of_catalogue(model: Model, entry: str) -> Numbers:
    """The numbers that the catalogue writes for a model whose weights are not here yet.

    Raises:
        PlacementError: It writes none.
    """
    if model.architecture is None:
        raise PlacementError(
            f"{entry}.architecture",
            f"must be set for {model.name}, whose weights are not here yet",
            "copy the keys of its config.json there (model_type, hidden_size, num_hidden_layers, and so on)",
        )
    return Numbers(
        config=model.architecture,
        weight_bytes=model.weight_bytes,
        tensors=None,
        origin="the catalogue",
        entry=f"{entry}.architecture",
    )
