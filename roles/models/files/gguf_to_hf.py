#!/usr/bin/env python
"""Turn a GGUF file into a folder in Hugging Face's layout, which vLLM serves.

Runs in the engine's environment (torch, transformers, gguf); needs nothing of Citadel's:

    python gguf_to_hf.py WEIGHTS.gguf FOLDER

FOLDER must not exist. It is written under another name beside itself and renamed at the end, so that it is
there whole or not at all. Exit codes: 0 done, 1 the conversion failed, 2 wrong arguments.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Everything is read from the file: nothing may be looked up on the network.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

_MAGIC = b"GGUF"
_DTYPES = ("bfloat16", "float16", "float32")


class ConversionError(Exception):
    """The file cannot be converted. The message is one line for people."""


def main(arguments: list[str] | None = None) -> int:
    """Convert as the command line says; return the exit code."""
    options = _parse(arguments)
    try:
        convert(options.weights, options.folder, options.dtype)
    except ConversionError as error:
        print(f"gguf_to_hf: {error}", file=sys.stderr)  # noqa: T201 - a command's way to speak
        return 1
    return 0


def convert(weights: Path, folder: Path, dtype: str = "bfloat16") -> None:
    """Write the model, its tokenizer and its chat template.

    Args:
        weights: The GGUF file.
        folder: The folder to make.
        dtype: Number type of the weights written: bfloat16, float16 or float32.

    Raises:
        ConversionError: With the reason.
    """
    _check(weights, folder)
    with _made_whole(folder) as building:
        try:
            _write(weights, building, dtype)
        except ImportError as error:
            raise ConversionError(f"this interpreter lacks a package: {error}") from error
        except Exception as error:  # which exceptions the libraries raise is written nowhere
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConversionError(f"{weights} cannot be converted ({reason})") from error


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Turn a GGUF file into a folder in Hugging Face's layout.")
    parser.add_argument("weights", type=Path, help="the .gguf file")
    parser.add_argument("folder", type=Path, help="the folder to make; must not exist")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="bfloat16", help="number type of the weights written"
    )
    return parser.parse_args(arguments)


def _check(weights: Path, folder: Path) -> None:
    """Refuse early what must fail late: loading torch alone takes seconds."""
    try:
        with weights.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ConversionError(f"cannot read {weights}: {error.strerror}") from error
    if magic != _MAGIC:
        raise ConversionError(f"{weights} is not a GGUF file: it begins with {magic!r}, not {_MAGIC!r}")
    if folder.exists():
        raise ConversionError(f"{folder} is there already: remove it, or name another folder")
    if not folder.parent.is_dir():
        raise ConversionError(f"there is no folder {folder.parent} to make {folder.name} in")


@contextlib.contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` when all went well and is removed when not."""
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield building
        for file in building.iterdir():
            file.chmod(0o644)
        building.chmod(0o755)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(weights: Path, folder: Path, dtype: str) -> None:
    # Loaded here: that takes seconds, and is only needed when the arguments are right.
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    transformers.logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **source, dtype=getattr(torch, dtype), quantization_config=transformers.GgufConfig(dequantize=True)
    )
    # A quantization that is no longer there must not be in the new config.json.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
