"""The converter's ways to fail, and that a folder is there whole or not at all.

torch and transformers are stood in for; that they turn a real file into what vLLM serves is seen on a lab
host.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles" / "models" / "files" / "gguf_to_hf.py"


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # put back afterwards what the program sets
    spec = importlib.util.spec_from_file_location("gguf_to_hf", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\3\0\0\0")
    return path


class _Saved:
    """A model or a tokenizer that can be saved."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.config = types.SimpleNamespace(quantization_config="gone")

    def save_pretrained(self, folder: Path) -> None:
        (folder / self.name).write_text("saved")
        (folder / self.name).chmod(0o600)
        if self.error:
            raise self.error


def stand_in(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> _Saved:
    model = _Saved("config.json")
    tokenizer = _Saved("tokenizer.json", error)
    transformers = types.SimpleNamespace(
        logging=types.SimpleNamespace(disable_progress_bar=lambda: None),
        GgufConfig=lambda **_: "dequantized",
        AutoTokenizer=types.SimpleNamespace(from_pretrained=lambda **_: tokenizer),
        AutoModelForCausalLM=types.SimpleNamespace(from_pretrained=lambda **_: model),
    )
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(bfloat16="bf16"))
    return model


def test_the_folder_is_whole_and_readable(
    converter: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stand_in(monkeypatch)
    assert converter.main([str(weights), str(tmp_path / "out")]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["config.json", "tokenizer.json"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("GGUF architecture x is not supported.\nmore"), "(ValueError: GGUF architecture x"),
        (KeyError("blk.0"), "cannot be converted (KeyError"),
        (ImportError("no gguf"), "this interpreter lacks a package: no gguf"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_failure_leaves_nothing_behind(
    converter: Any, weights: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    stand_in(monkeypatch, error)
    with pytest.raises(converter.ConversionError) as caught:
        converter.convert(weights, weights.parent / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(weights.parent.iterdir()) == [weights]


def test_what_is_refused_before_anything_is_loaded(
    converter: Any, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"PK\3\4")
    for arguments, message in (
        ([tmp_path / "none.gguf", tmp_path / "out"], "cannot read"),
        ([other, tmp_path / "out"], "is not a GGUF file: it begins with b'PK"),
        ([weights, tmp_path], "is there already"),
        ([weights, tmp_path / "no" / "out"], "there is no folder"),
    ):
        assert converter.main([str(argument) for argument in arguments]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        converter.main([str(weights)])
    assert wrong.value.code == 2
