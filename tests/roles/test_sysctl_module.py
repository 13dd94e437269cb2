import os

import pytest

from .role_modules import load

sysctl = load("library/citadel_sysctl.py")


@pytest.fixture
def proc(tmp_path):
    for name, value in {"vm/swappiness": "60\n", "net/ipv4/tcp_rmem": "4096\t131072\t6291456\n"}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({"vm.swappiness": "60"}, {}),
        ({"vm.swappiness": "10"}, {"vm.swappiness": "10"}),
        ({"net.ipv4.tcp_rmem": "4096 131072 6291456"}, {}),
        ({"net.ipv4.tcp_rmem": "4096  131072\t6291456"}, {}),
        ({"kernel.unheard_of": "1"}, {"kernel.unheard_of": "1"}),
    ],
)
def test_only_what_differs_is_set(proc, settings, differing):
    assert sysctl.differing(settings, sysctl.observe(settings, proc)) == differing


def test_a_setting_that_can_be_set_is_set(proc):
    assert sysctl.obstacle("vm.swappiness", proc) is None
    assert sysctl.set_value("vm.swappiness", "10", proc) is None
    assert sysctl.observe({"vm.swappiness": "10"}, proc) == {"vm.swappiness": "10"}


def test_a_setting_that_the_kernel_does_not_have_is_told(proc):
    assert sysctl.obstacle("kernel.unheard_of", proc) == "this kernel does not have it"


def test_a_setting_of_the_containers_host_is_told(proc, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "read-only here" in sysctl.obstacle("vm.swappiness", proc)


def test_a_refusal_of_the_kernel_is_told(proc):
    (proc / "vm/swappiness").unlink()
    (proc / "vm/swappiness").mkdir()
    assert sysctl.set_value("vm.swappiness", "10", proc) == "Is a directory"


def test_the_file_is_sorted_and_replaced_whole(tmp_path):
    path = tmp_path / "60-citadel.conf"
    path.write_text("old = 1\n")
    sysctl.write_file(path, sysctl.render({"vm.b": "2", "vm.a": "1"}))
    lines = path.read_text().splitlines()
    assert lines[1:] == ["vm.a = 1", "vm.b = 2"]
    assert [file.name for file in tmp_path.iterdir()] == ["60-citadel.conf"]
