"""What the files of a model tell, without loading it: its config.json and the headers of its safetensors.

Needs nothing but Python >= 3.11 and runs alone, so that it can be sent to a bare host:

    python3 model_files.py FOLDER...

prints one JSON object: for each folder `{"config": {...}, "weight_bytes": n, "tensors": {...}, "note":
"..."}`, or `{"error": "..."}`. Formats: https://huggingface.co/docs/safetensors (the header: 8 bytes
little-endian length, then JSON of name to dtype, shape and data_offsets) and the index that transformers
writes beside several shards.
"""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any, TypeGuard

# Bits of one element. safetensors' own list, `Dtype` in its Rust sources; F4 is packed by two, F6 by four
# in three.
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
# The format's own limit for a header.
_HEADER_LIMIT = 100_000_000
_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"^(.*?(?:layers?|h|blocks?))\.(\d+)\.")


class ModelFilesError(Exception):
    """A folder or file that is not what it should be. Its text names the file."""


def read_folder(folder: Path) -> dict[str, Any]:
    """What a folder in Hugging Face's layout tells.

    Returns:
        `config`: the content of config.json. `weight_bytes`: bytes of all tensors. `tensors`: see
        `summarize`, or None where the weights are not safetensors. `note`: what people should know, or "".

    Raises:
        ModelFilesError: Something is missing or broken.
    """
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelFilesError(f"{folder / 'config.json'}: must hold a JSON object, not {_kind(config)}")
    shards = _shards(folder)
    if shards:
        tensors = {}
        for shard in shards:
            for name, tensor in read_header(shard).items():
                if name in tensors:
                    raise ModelFilesError(
                        f"{shard}: holds the tensor {name}, which an earlier shard holds, too"
                    )
                tensors[name] = tensor
        summary = summarize(tensors)
        return {"config": config, "weight_bytes": summary["bytes"], "tensors": summary, "note": ""}
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles:
        return {
            "config": config,
            "weight_bytes": sum(file.stat().st_size for file in pickles),
            "tensors": None,
            "note": f"{len(pickles)} .bin file(s), counted by their size: they do not tell what is in them",
        }
    raise ModelFilesError(f"{folder}: holds no *.safetensors and no pytorch_model*.bin")


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file, by name: `dtype`, `shape`, `bytes`.

    Raises:
        ModelFilesError: The file is not whole, or not safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:  # noqa: PLR2004 - the width of the length before the header
                raise ModelFilesError(f"{path}: is too short to be safetensors: {size} bytes")
            (length,) = struct.unpack("<Q", prefix)
            if length > _HEADER_LIMIT or 8 + length > size:
                raise ModelFilesError(
                    f"{path}: its header is said to be {length} bytes long, the file has {size}: "
                    "it is not whole, or not safetensors"
                )
            raw = file.read(length)
    except OSError as error:
        raise ModelFilesError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise ModelFilesError(f"{path}: its header is not JSON") from None
    if not isinstance(header, dict):
        raise ModelFilesError(f"{path}: its header must be a JSON object, not {_kind(header)}")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry) for name, entry in header.items()}
    _check_offsets(path, tensors, size - 8 - length)
    return tensors


def summarize(tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the arithmetic needs to know of the tensors.

    Returns:
        `bytes` and `parameters` of all; `dtypes`: both by number type; `layers`: bytes by layer of the
        stack that holds most of them; `head_bytes`: bytes of tensors named lm_head. Elements of packed
        types count as stored: an int32 that holds eight 4-bit weights is one.
    """
    dtypes: dict[str, dict[str, int]] = {}
    stacks: dict[str, dict[str, int]] = {}
    head = 0
    for name, tensor in tensors.items():
        kind = dtypes.setdefault(tensor["dtype"], {"parameters": 0, "bytes": 0})
        kind["parameters"] += tensor["elements"]
        kind["bytes"] += tensor["bytes"]
        match = _LAYER.match(name)
        if match:
            stack = stacks.setdefault(match[1], {})
            stack[match[2]] = stack.get(match[2], 0) + tensor["bytes"]
        if re.search(r"(^|\.)lm_head\.", name):
            head += tensor["bytes"]
    return {
        "bytes": sum(kind["bytes"] for kind in dtypes.values()),
        "parameters": sum(kind["parameters"] for kind in dtypes.values()),
        "dtypes": dict(sorted(dtypes.items())),
        "layers": max(stacks.values(), key=lambda stack: sum(stack.values()), default={}),
        "head_bytes": head,
    }


def _shards(folder: Path) -> list[Path]:
    """The files that hold the weights: the index's where there is one, for a folder may hold other copies."""
    index = folder / _INDEX
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    content = _read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFilesError(f"{index}: holds no weight_map")
    shards = sorted({str(name) for name in weight_map.values()})
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ModelFilesError(
            f"{folder}: {len(missing)} of {len(shards)} shards of its index are missing: "
            f"{', '.join(missing[:5])}"
        )
    return [folder / name for name in shards]


def _tensor(path: Path, name: str, entry: Any) -> dict[str, Any]:
    where = f"{path}: its tensor {name}"
    if not isinstance(entry, dict):
        raise ModelFilesError(f"{where} must be described by an object, not {_kind(entry)}")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ModelFilesError(f"{where} has a number type that is not known: {dtype!r}")
    if not _are_whole(shape):
        raise ModelFilesError(f"{where} has no valid shape: {shape!r}")
    if not _are_whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin, end
        raise ModelFilesError(f"{where} has no valid data_offsets: {offsets!r}")
    elements = 1
    for side in shape:
        elements *= side
    size = elements * DTYPE_BITS[dtype] // 8
    if size != offsets[1] - offsets[0]:
        raise ModelFilesError(
            f"{where} takes {offsets[1] - offsets[0]} bytes, its shape {shape} of {dtype} would take {size}"
        )
    return {"dtype": dtype, "shape": shape, "elements": elements, "bytes": size, "offsets": offsets}


def _check_offsets(path: Path, tensors: dict[str, dict[str, Any]], room: int) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["offsets"]):
        begin, after = tensor["offsets"]
        if begin < end:
            raise ModelFilesError(f"{path}: its tensor {name} overlaps the one before it")
        if after > room:
            raise ModelFilesError(
                f"{path}: its tensor {name} ends at byte {after} of the data, which has {room}: "
                "the file is not whole"
            )
        end = after


def _are_whole(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFilesError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelFilesError(f"{path}: is not JSON: {error}") from None


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def answer(folder: Path) -> "dict[str, Any]":
    """What a folder tells, or `{"error": "..."}`."""
    try:
        return read_folder(folder)
    except ModelFilesError as error:
        return {"error": str(error)}


def main(folders: list[str]) -> None:
    """Print what each folder tells as one JSON object."""
    json.dump({folder: answer(Path(folder)) for folder in folders}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
