import grp
import os
import pwd

import pytest

from .role_modules import load

directories = load("library/citadel_directories.py")
Folder = directories.Folder

OWNER = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


def entry(path, children=(), mode="0755"):
    return {"path": str(path), "owner": "o", "group": "g", "mode": mode, "children": list(children)}


@pytest.mark.parametrize(
    ("entries", "paths"),
    [
        pytest.param([entry("/a")], ["/a"], id="one"),
        pytest.param([entry("/a/")], ["/a"], id="trailing slash"),
        pytest.param([entry("/a", ["b/c"])], ["/a", "/a/b", "/a/b/c"], id="what lies between belongs to it"),
        pytest.param([entry("/a", ["b", "b"])], ["/a", "/a/b"], id="twice is once"),
        pytest.param([entry("/b"), entry("/a")], ["/a", "/b"], id="parents come first"),
        pytest.param(
            [entry("/a/b-c"), entry("/a/b", ["d"]), entry("/a")],
            ["/a", "/a/b", "/a/b-c", "/a/b/d"],
            id="dash",
        ),
    ],
)
def test_wanted_folders(entries, paths):
    assert [folder.path for folder in directories.wanted_folders(entries)] == paths


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a")], "must be absolute"),
        ([entry("/a", ["../b"])], "relative path without"),
        ([entry("/a", ["/b"])], "relative path without"),
        ([entry("/a", mode="rwx")], "octal string"),
        ([entry("/a", mode="0799")], "octal string"),
        ([entry("/a"), entry("/a", mode="0700")], "is wanted as 0755 o:g /a and as 0700 o:g /a"),
    ],
)
def test_refuses_folders_that_cannot_be_meant(entries, message):
    with pytest.raises(directories.RefusedError, match=message):
        directories.wanted_folders(entries)


@pytest.mark.parametrize(
    ("found", "planned"),
    [
        pytest.param(None, True, id="missing"),
        pytest.param(Folder("/a", "o", "g", "0755"), False, id="as wanted"),
        pytest.param(Folder("/a", "o", "g", "0775"), True, id="mode"),
        pytest.param(Folder("/a", "x", "g", "0755"), True, id="owner"),
        pytest.param(Folder("/a", "o", "x", "0755"), True, id="group"),
    ],
)
def test_plan_holds_what_differs(found, planned):
    wanted = Folder("/a", "o", "g", "0755")
    assert directories.plan([wanted], {"/a": found}) == ([(found, wanted)] if planned else [])


def test_apply_makes_and_corrects_and_then_nothing_is_left_to_do(tmp_path):
    path = tmp_path / "new" / "secret"
    wanted = Folder(str(path), OWNER, GROUP, "0700")
    directories.apply(wanted)
    assert directories.observe(str(path)) == wanted
    assert path.parent.stat().st_mode & 0o777 == 0o755

    path.chmod(0o777)
    assert directories.plan([wanted], {str(path): directories.observe(str(path))})
    directories.apply(wanted)
    assert directories.observe(str(path)) == wanted


def test_observe_tells_a_missing_folder_from_what_is_none(tmp_path):
    file = tmp_path / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert directories.observe(str(tmp_path / "missing")) is None
    with pytest.raises(directories.RefusedError, match="a file stands there"):
        directories.observe(str(file))
    with pytest.raises(directories.RefusedError, match="a symbolic link stands there"):
        directories.observe(str(link))
    with pytest.raises(directories.RefusedError, match="a parent of it is no folder"):
        directories.observe(str(file / "below"))


def test_a_users_link_on_the_way_is_not_followed(tmp_path):
    """Whoever owns a folder above could otherwise be given any folder of the host."""
    target = tmp_path / "etc"
    target.mkdir(mode=0o755)
    link = tmp_path / "src"
    link.symlink_to(target)
    if os.geteuid() == 0:
        os.lchown(link, 65534, 65534)
    with pytest.raises(directories.RefusedError, match="'src' in it cannot be opened"):
        directories.apply(Folder(str(link / "below"), OWNER, GROUP, "0755"))
    assert list(target.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of root's")
def test_roots_link_on_the_way_is_followed(tmp_path):
    target = tmp_path / "disk"
    target.mkdir()
    (tmp_path / "mnt").symlink_to(target)
    directories.apply(Folder(str(tmp_path / "mnt" / "models"), OWNER, GROUP, "0755"))
    assert (target / "models").is_dir()


def test_names_that_the_host_does_not_have():
    wanted = [Folder("/a", OWNER, "no-such-group", "0755"), Folder("/b", "no-such-user", GROUP, "0755")]
    assert directories.unknown_names(wanted) == [
        "there is no user no-such-user",
        "there is no group no-such-group",
    ]


def test_what_lies_on_the_roots_file_system():
    assert directories.on_root_file_system("/no/such/folder")
    assert not directories.on_root_file_system("/proc/no-such-folder")


def test_a_diff_line_reads_like_ls():
    assert Folder("/a", "o", "g", "0755").describe() == "0755 o:g /a"
