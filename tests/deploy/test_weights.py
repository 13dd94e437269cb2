import getpass
import hashlib
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from .modules import Result, Run, load

# Runs Ansible, or its modules as processes: that takes seconds.
pytestmark = pytest.mark.lab

MODULE = "roles/models/library/citadel_weights.py"
weights = load(MODULE)
ME = getpass.getuser()

GGUF = b"GGUF and then the weights"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A folder with weights in Hugging Face's layout, one of them behind a link, as in the hub's cache."""
    folder = tmp_path / "origin"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "blob").write_bytes(b"tensors")
    (folder / "sub/model.safetensors").symlink_to(tmp_path / "blob")
    return folder


def script(path: Path, text: str) -> str:
    """An executable."""
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for uv, the engine's Python and the hub's client, which do what the real ones do to files."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    uv = script(
        binaries / "uv",
        """
        #!/bin/sh
        for word; do case $word in --target=*) target=${word#--target=};; *==*) package=$word;; esac; done
        [ "$package" = "a-model==1.0" ] || { echo "no version of $package" >&2; exit 1; }
        mkdir -p "$target/a_model" && printf 'GGUF and then the weights' >"$target/a_model/w.gguf"
        """,
    )
    python = script(
        binaries / "python",
        """
        #!/bin/sh
        # converter weights folder
        mkdir "$3" && cp "$2" "$3/model.safetensors" && echo '{}' >"$3/config.json"
        """,
    )
    script(
        binaries / "hf",
        """
        #!/bin/sh
        for word; do case $word in --local-dir=*) folder=${word#--local-dir=};; esac; done
        mkdir -p "$folder/.cache"
        [ -e "$folder/.cache/begun" ] || { touch "$folder/.cache/begun"; echo "connection lost" >&2; exit 1; }
        echo "$*" >"$folder/config.json"; cat "$HF_TOKEN_PATH" >"$folder/seen"
        """,
    )
    return {"uv": uv, "engine_python": python, "converter": "the converter's text"}


def package(**changes: str) -> dict[str, Any]:
    source = {
        "kind": "package",
        "package": "a-model",
        "version": "1.0",
        "path": "a_model/w.gguf",
        "sha256": hashlib.sha256(GGUF).hexdigest(),
    }
    return {"name": "m", "source": source | changes}


def folder(path: Path) -> dict[str, Any]:
    return {"name": "m", "source": {"kind": "folder", "path": str(path)}}


def place(run_module: Run, root: Path, model: dict[str, Any], **parameters: object) -> Result:
    return run_module(MODULE, root=str(root), models=[model], user=ME, **parameters)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_takes_a_folder_whole(run_module: Run, root: Path, origin: Path) -> None:
    assert place(run_module, root, folder(origin))["needed"] == {"m": "missing"}
    assert names(root) == ["m"]
    placed = root / "m/sub/model.safetensors"
    assert placed.read_bytes() == b"tensors"
    assert not placed.is_symlink()
    assert placed.stat().st_mode & 0o777 == 0o644
    record = json.loads((root / "m" / weights.MANIFEST).read_text())["files"]
    assert record["sub/model.safetensors"] == {"size": 7, "sha256": hashlib.sha256(b"tensors").hexdigest()}

    again = place(run_module, root, folder(origin))
    assert (again["changed"], again["needed"]) == (False, {})


def test_converts_what_a_package_carries(run_module: Run, root: Path, tools: dict[str, str]) -> None:
    assert place(run_module, root, package(), **tools)["changed"] is True
    assert (root / "m/model.safetensors").read_bytes() == GGUF
    assert names(root) == ["m"]
    assert place(run_module, root, package(), **tools)["changed"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "source.sha256 is 0000"),
        ({"version": "2.0"}, "fetching the package a-model==2.0 failed:\nno version of a-model==2.0"),
        ({"path": "a_model/other.gguf"}, "source.path is a_model/other.gguf: a-model==1.0 has no such file"),
    ],
)
def test_says_what_is_wrong_with_a_package(
    run_module: Run, root: Path, tools: dict[str, str], changes: dict[str, str], message: str
) -> None:
    result = place(run_module, root, package(**changes), **tools)
    assert result["failed"] is True
    assert message in result["msg"]
    assert not (root / "m").exists()


def test_says_what_is_wrong_with_a_folder(run_module: Run, root: Path, tmp_path: Path) -> None:
    missing = place(run_module, root, folder(tmp_path / "none"))
    assert "there is no such folder" in missing["msg"]
    (tmp_path / "empty").mkdir()
    assert "there is no config.json in it" in place(run_module, root, folder(tmp_path / "empty"))["msg"]


def test_what_an_interrupted_run_left_is_cleared(run_module: Run, root: Path, origin: Path) -> None:
    half = root / ".staging-m-0123456789ab/weights"
    half.mkdir(parents=True)
    (half / "half").write_text("half")
    (root / "m").mkdir()  # as the role `directories` makes it
    place(run_module, root, folder(origin))
    assert names(root) == ["m"]
    assert not (root / "m/half").exists()


def test_a_download_from_the_hub_goes_on_where_it_stopped(
    run_module: Run, root: Path, tools: dict[str, str], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    model = {"name": "m", "source": {"kind": "hub", "repository": "o/n", "revision": "abc"}}
    first = place(run_module, root, model, hub_token_file=str(token), **tools)
    assert "downloading o/n at abc failed:\nconnection lost" in first["msg"]
    assert not (root / "m").exists()
    assert place(run_module, root, model, hub_token_file=str(token), **tools)["changed"] is True
    assert names(root / "m") == [weights.MANIFEST, "config.json", "seen"]
    assert "download o/n --revision=abc" in (root / "m/config.json").read_text()
    assert (root / "m/seen").read_text() == "secret"


@pytest.mark.parametrize(
    ("spoil", "verify", "fault"),
    [
        pytest.param(
            lambda m: (m / "config.json").write_text("{}  "), False, "damaged: config.json", id="size"
        ),
        pytest.param(lambda m: (m / "config.json").unlink(), False, "damaged: config.json", id="absent"),
        pytest.param(
            lambda m: (m / "config.json").write_text("[]"), False, None, id="content, not looked at"
        ),
        pytest.param(
            lambda m: (m / "config.json").write_text("[]"), True, "damaged: config.json", id="content"
        ),
        pytest.param(lambda m: (m / weights.MANIFEST).write_text("{"), False, "missing", id="manifest"),
    ],
)
def test_sees_damage(
    run_module: Run, root: Path, origin: Path, *, spoil: Any, verify: bool, fault: str | None
) -> None:
    place(run_module, root, folder(origin))
    spoil(root / "m")
    looked = place(run_module, root, folder(origin), state="checked", verify=verify)
    assert looked["needed"] == ({"m": fault} if fault else {})
    assert looked["changed"] is False
    mended = place(run_module, root, folder(origin), verify=verify)
    assert mended["changed"] is (fault is not None)
    assert place(run_module, root, folder(origin), verify=verify)["needed"] == {}


def test_a_source_that_changed_is_fetched_again(run_module: Run, root: Path, origin: Path) -> None:
    place(run_module, root, folder(origin))
    (origin / "added.json").write_text("{}")
    assert place(run_module, root, folder(origin))["needed"] == {"m": "from another source"}
    assert (root / "m/added.json").exists()


def test_a_source_that_went_away_does_no_harm(run_module: Run, root: Path, origin: Path) -> None:
    place(run_module, root, folder(origin))
    origin.rename(origin.with_name("unmounted"))
    assert place(run_module, root, folder(origin))["needed"] == {}


def test_check_mode_fetches_nothing(run_module: Run, root: Path, origin: Path) -> None:
    planned = place(run_module, root, folder(origin), check=True)
    assert (planned["changed"], planned["needed"]) == (True, {"m": "missing"})
    assert names(root) == []


def test_a_user_that_is_yet_to_be_made(run_module: Run, root: Path, origin: Path) -> None:
    parameters = {"root": str(root), "models": [folder(origin)], "user": "no-such-user"}
    assert "no user no-such-user" in run_module(MODULE, **parameters)["msg"]
    assert run_module(MODULE, check=True, **parameters)["needed"] == {"m": "missing"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_works_as_the_user_and_cannot_be_root_again(tmp_path: Path) -> None:
    def who() -> dict[str, str]:
        try:
            os.setuid(0)
        except PermissionError:
            return {"ids": " ".join(map(str, os.getresuid()))}
        return {"ids": "became root again"}

    nobody = weights.pwd.getpwnam("nobody").pw_uid
    assert weights.as_user("nobody", who) == {"ids": f"{nobody} {nobody} {nobody}"}
    assert os.getuid() == 0
