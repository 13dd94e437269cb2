"""Reading folders of weights, whole and broken. The files are real safetensors, of a few bytes."""

import json
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citadel_llm.placement import model_files
from citadel_llm.placement.memory import memory_of
from citadel_llm.placement.model_files import ModelFilesError, answer, read_folder, read_header
from citadel_llm.placement.numbers import numbers_of_files
from citadel_llm.placement.terms import PlacementError

from .samples import entry

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "torch_dtype": "float32",
}
Shapes = dict[str, tuple[str, list[int]]]
BYTES = {"F32": 4, "BF16": 2, "I32": 4, "F8_E4M3": 1}


def llama() -> Shapes:
    """The tensors of that config.json, in float32."""
    tensors: Shapes = {
        "model.embed_tokens.weight": ("F32", [32, 8]),
        "model.norm.weight": ("F32", [8]),
        "lm_head.weight": ("F32", [32, 8]),
    }
    for index in range(2):
        layer = f"model.layers.{index}"
        tensors |= {f"{layer}.self_attn.{name}_proj.weight": ("F32", [8, 8]) for name in "qkvo"}
        tensors |= {f"{layer}.mlp.{name}_proj.weight": ("F32", [16, 8]) for name in ("gate", "up")}
        tensors[f"{layer}.mlp.down_proj.weight"] = ("F32", [8, 16])
        tensors |= {f"{layer}.{name}_layernorm.weight": ("F32", [8]) for name in ("input", "post_attention")}
    return tensors


def header_of(tensors: Shapes) -> tuple[dict[str, Any], int]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header, end


def write(path: Path, header: Any, data: int, *, length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write(tmp_path / "model.safetensors", *header_of(llama()))
    return tmp_path


def test_a_folder_is_read(folder: Path) -> None:
    read = read_folder(folder)
    parameters = 2 * 32 * 8 + 8 + 2 * (4 * 64 + 3 * 128 + 2 * 8)
    assert read["config"] == CONFIG
    assert read["weight_bytes"] == parameters * 4
    assert read["tensors"] == {
        "bytes": parameters * 4,
        "parameters": parameters,
        "dtypes": {"F32": {"parameters": parameters, "bytes": parameters * 4}},
        "layers": {"0": (4 * 64 + 3 * 128 + 2 * 8) * 4, "1": (4 * 64 + 3 * 128 + 2 * 8) * 4},
        "head_bytes": 32 * 8 * 4,
    }


def test_the_formula_agrees_with_the_files(folder: Path) -> None:
    numbers = numbers_of_files(str(folder), answer(folder))
    model = entry(CONFIG)
    of_files = memory_of(model, numbers, "cuda", "models[0]")
    assert of_files.weight_bytes == of_files.parameters * 2
    assert numbers.tensors is not None
    assert of_files.parameters == numbers.tensors["parameters"]


def test_only_shards_of_the_index_count(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    names = list(llama())
    for number, part in enumerate((names[:5], names[5:]), 1):
        write(folder / f"model-{number}.safetensors", *header_of({name: llama()[name] for name in part}))
    weight_map = {
        name: "model-1.safetensors" if name in names[:5] else "model-2.safetensors" for name in names
    }
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    read = read_folder(folder)
    assert read["weight_bytes"] == sum(read["tensors"]["dtypes"]["F32"][key] for key in ("bytes",))
    assert read["tensors"]["parameters"] == 2 * 32 * 8 + 8 + 2 * (4 * 64 + 3 * 128 + 2 * 8)

    (folder / "model-2.safetensors").unlink()
    with pytest.raises(
        ModelFilesError, match=r"1 of 2 shards of its index are missing: model-2\.safetensors"
    ):
        read_folder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../model-1.safetensors"}}))
    with pytest.raises(ModelFilesError, match="are missing"):
        read_folder(folder)
    index.write_text("{}")
    with pytest.raises(ModelFilesError, match="holds no weight_map"):
        read_folder(folder)


def test_a_tensor_twice(folder: Path) -> None:
    write(folder / "other.safetensors", *header_of({"lm_head.weight": ("F32", [32, 8])}))
    with pytest.raises(ModelFilesError, match=r"other\.safetensors: holds the tensor lm_head\.weight, which"):
        read_folder(folder)


def test_pickles_are_counted_by_their_size(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(bytes(1000))
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(bytes(500))
    read = read_folder(folder)
    assert (read["weight_bytes"], read["tensors"]) == (1500, None)
    assert "2 .bin file(s)" in numbers_of_files(str(folder), answer(folder)).origin


ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        (ONE, 8, 10**15, "its header is said to be 1000000000000000 bytes long, the file has"),
        (ONE, 8, 200, "its header is said to be 200 bytes long, the file has"),
        (b"{not json", 0, None, "its header is not JSON"),
        ([1], 0, None, "must be a JSON object, not a list"),
        ({"a": 1}, 0, None, "its tensor a must be described by an object, not a number"),
        ({"a": ONE["a"] | {"dtype": "F33"}}, 8, None, "has a number type that is not known: 'F33'"),
        ({"a": ONE["a"] | {"dtype": ["F32"]}}, 8, None, r"has a number type that is not known: \['F32'\]"),
        ({"a": ONE["a"] | {"shape": [-2]}}, 8, None, r"has no valid shape: \[-2\]"),
        ({"a": ONE["a"] | {"shape": "2"}}, 8, None, "has no valid shape: '2'"),
        ({"a": ONE["a"] | {"data_offsets": [8, 0]}}, 8, None, r"has no valid data_offsets: \[8, 0\]"),
        ({"a": ONE["a"] | {"data_offsets": [0]}}, 8, None, r"has no valid data_offsets: \[0\]"),
        ({"a": ONE["a"] | {"shape": [3]}}, 8, None, r"takes 8 bytes, its shape \[3\] of F32 would take 12"),
        (ONE, 4, None, "its tensor a ends at byte 8 of the data, which has 4: the file is not whole"),
        (
            ONE | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
            12,
            None,
            "b overlaps the one",
        ),
    ],
)
def test_a_broken_header_names_the_file(
    tmp_path: Path, header: Any, data: int, length: int | None, message: str
) -> None:
    path = tmp_path / "model.safetensors"
    write(path, header, data, length=length)
    with pytest.raises(ModelFilesError, match=f"^{path}: .*{message}"):
        read_header(path)


@settings(max_examples=50)
@given(
    st.binary(max_size=200),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5),
)
def test_garbage_is_refused_and_nothing_worse(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, key: str, value: Any
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "model.safetensors"
    path.write_bytes(raw)
    with suppress(ModelFilesError):
        read_header(path)
    write(path, {"a": ONE["a"] | {key: value}}, 8)
    with suppress(ModelFilesError):
        read_header(path)


def test_brackets_without_end(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", b"[" * 100_000, 0)
    with pytest.raises(ModelFilesError, match="its header is not JSON"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"abc", "is too short to be safetensors: 3 bytes"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "must hold a JSON object, not a list"),
        ("config.json", b"\xff\xfe", "is not JSON"),
        ("config.json", None, "cannot be read: No such file or directory"),
        ("model.safetensors", None, r"holds no \*\.safetensors and no pytorch_model\*\.bin"),
    ],
)
def test_a_broken_folder_names_what_is_wrong(
    folder: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(PlacementError, match=message) as caught:
        numbers_of_files(str(folder), answer(folder))
    assert caught.value.entry.startswith(str(folder))


def test_it_runs_alone_on_a_bare_host(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.py"
    alone.write_bytes(Path(model_files.__file__).read_bytes())
    missing = str(tmp_path / "missing")
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(alone), str(folder), missing],
        capture_output=True,
        check=True,
        text=True,
    )
    answers = json.loads(run.stdout)
    assert answers[str(folder)] == read_folder(folder)
    with pytest.raises(PlacementError, match=r"missing/config\.json: cannot be read"):
        numbers_of_files(missing, answers[missing])
