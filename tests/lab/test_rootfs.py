from dataclasses import replace
from pathlib import Path

import pytest
from citadel_lab import rootfs
from citadel_lab.definition import Lab, subnet_from
from citadel_lab.system import LabError


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(
        hosts=(),
        suite="bookworm",
        mirror="",
        packages=("systemd", "dbus"),
        memory=0,
        cpus=0,
        subnet=subnet_from("10.89.14.0/24"),
        bridge="citadel-lab1",
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        boot_timeout=60,
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for mmdebstrap: notes its arguments, and makes a folder with one file."""
    calls = []

    def mmdebstrap(*command: str | Path, timeout: float) -> str:
        calls.append([str(word) for word in command])
        folder = next(word for word in command if isinstance(word, Path))
        folder.mkdir()
        (folder / "complete").touch()
        return ""

    monkeypatch.setattr(rootfs, "run", mmdebstrap)
    return calls


def test_a_root_file_system_is_known_by_all_that_goes_into_it(lab: Lab) -> None:
    place = rootfs.path_of(lab)
    assert rootfs.path_of(replace(lab, packages=("dbus", "systemd"))) == place
    for other in (
        replace(lab, packages=("systemd",)),
        replace(lab, suite="trixie"),
        replace(lab, mirror="http://mirror.example"),
    ):
        assert rootfs.path_of(other) != place


def test_what_a_killed_build_left_is_not_built_upon(lab: Lab, built: list[list[str]]) -> None:
    place = rootfs.path_of(lab)
    draft = place.with_name(f"{place.name}.building")
    (draft / "half").mkdir(parents=True)
    rootfs.build(lab)
    assert [entry.name for entry in place.iterdir()] == ["complete"]
    assert not draft.exists()
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_a_mirror_is_asked_for_only_if_one_is_given(lab: Lab, built: list[list[str]]) -> None:
    rootfs.build(lab)
    rootfs.build(replace(lab, mirror="http://mirror.example"))
    assert built[0][-2] == "bookworm"
    assert built[1][-1] == "http://mirror.example"


def test_a_build_that_fails_leaves_nothing_in_place(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*command: str | Path, timeout: float) -> str:
        raise LabError("mmdebstrap: exit status 1")

    monkeypatch.setattr(rootfs, "run", fail)
    with pytest.raises(LabError, match="mmdebstrap"):
        rootfs.build(lab)
    assert not rootfs.path_of(lab).exists()
