"""The reports: stable on the host, whole on the controller, and one page that stands alone."""

import copy
import html.parser
import json
import re
import xml.etree.ElementTree as ET

import pytest

from .hardware_machines import (
    PICTURE,
    REFERENCE,
    REFERENCE_NOW,
    REFERENCE_PROFILE,
    findings_of,
    gpu,
    hgx,
    machine,
    now_of,
    reference_picture,
    service,
    small_lab,
)
from .role_modules import load

canvas, compare, gpu_picture = machine("canvas"), machine("compare"), machine("gpu_picture")
page, picture, report = machine("page"), machine("picture"), machine("report")
services, terms = machine("services"), machine("terms")

SIXTEEN = hgx() | {
    "gpus": [gpu(index, "NVIDIA H100 80GB HBM3", 81559, index // 8) for index in range(16)],
    "gpu_links": [],
}
MACHINES = {
    "reference": (REFERENCE, REFERENCE_PROFILE),
    "hgx": (hgx(), {"memory_gib": 2048, "gpus": {"peer_to_peer": True}}),
    "sixteen": (SIXTEEN, {"gpus": {"memory_gib": 80}}),
    "lab": (small_lab(), REFERENCE_PROFILE),
    "bare": (small_lab() | {"services": [], "storage": []}, {}),
}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text; complains of a tag that is not closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    return parsed


def drawing(svg):
    return ET.fromstring(svg)  # noqa: S314 - it was made here


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("with_now", [True, False])
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(name, with_now):
    facts, profile = MACHINES[name]
    now = now_of(facts) if with_now else None
    text = page.render("llm-1", facts, findings_of(facts, profile), "2026-01-01" if with_now else "", now)
    parsed = read(text)
    assert not {tag for tag, *_ in parsed.attributes} & {"script", "link", "img", "iframe"}
    links = [value for _, key, value in parsed.attributes if key in ("src", "href", "srcset", "xlink:href")]
    assert links == []
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("name", MACHINES)
def test_the_picture_is_a_drawing_of_its_own(name):
    facts, profile = MACHINES[name]
    root = drawing(picture.draw("llm-1", facts, findings_of(facts, profile)))
    width, height = (float(number) for number in root.get("viewBox").split()[2:])
    boxes = [element for element in root.iter() if element.tag.endswith("rect")]
    for box in boxes:
        x, y, wide, high = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert min(x, y) >= 0
        assert min(wide, high) > 0
        assert x + wide <= width
        assert y + high <= height


def test_the_picture_in_the_documentation_is_what_is_drawn():
    assert PICTURE.read_text() == reference_picture(), "run python -m tests.roles.hardware_machines"


def words(svg):
    return [element.text for element in drawing(svg).iter() if element.tag.endswith("text")]


def test_pass_and_fail_are_said_by_sign_and_word_too():
    said = " ".join(words(picture.draw("x", *[small_lab(), findings_of(*MACHINES["lab"])])))
    assert "✗ refused" in said
    assert "✗ wrong service" in said
    assert "✓ ready" in said
    assert re.search(r"✗ \d not met", said)
    assert "No GPUs: there is no nvidia-smi" in said


def test_without_services_the_machine_stands_alone():
    facts, _ = MACHINES["bare"]
    assert "Services elsewhere" not in words(picture.draw("x", facts, []))
    assert "Services elsewhere" in words(picture.draw("x", REFERENCE, []))


def test_the_picture_says_how_gpus_are_joined():
    reference = " ".join(words(picture.draw("x", REFERENCE, [])))
    assert "GPUs 0-1: one host bridge, no peer-to-peer (GNS)" in reference
    assert "NVLink" not in reference
    many = " ".join(words(picture.draw("x", hgx(), [])))
    assert "NVLink between all pairs (NV18)" in many
    assert "28 pairs of GPUs: NVLink, peer-to-peer works" in many


def test_gpus_with_nvlink_in_pairs_get_a_bow_each():
    facts = copy.deepcopy(REFERENCE)
    facts["gpus"] = [gpu(index) for index in range(4)]
    kinds = {(0, 1): "nvlink", (2, 3): "nvlink"}
    facts["gpu_links"] = [
        {
            "gpus": [first, second],
            "kind": kinds.get((first, second), "socket"),
            "label": "NV4" if (first, second) in kinds else "NODE",
            "peer_to_peer": "ok",
        }
        for first in range(4)
        for second in range(first + 1, 4)
    ]
    said = words(picture.draw("x", facts, []))
    assert said.count("NVLink NV4") == 2
    assert "4 pairs of GPUs: one socket, peer-to-peer works" in said


def link(*pair, kind="switch"):
    return {"gpus": list(pair), "kind": kind, "label": "PIX", "peer_to_peer": "ok"}


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([], [[0], [1], [2], [3]]),
        ([link(0, 1), link(2, 3)], [[0, 1], [2, 3]]),
        ([link(0, 1), link(1, 3)], [[0, 1, 3], [2]]),
        ([link(0, 2), link(1, 3), link(2, 3)], [[0, 1, 2, 3]]),
        ([link(0, 1, kind="bridge")], [[0], [1], [2], [3]]),
    ],
)
def test_gpus_behind_one_switch_stand_together(links, expected):
    assert gpu_picture.groups([0, 1, 2, 3], links, ("switch",)) == expected


def test_gpus_whose_node_is_not_known_hang_below_the_first():
    facts = copy.deepcopy(REFERENCE)
    facts["gpus"] = [gpu(0, node=None), gpu(1, node=7)]
    assert "GPU 1" in words(picture.draw("x", facts, []))


def test_a_lost_gpu_is_drawn():
    facts = REFERENCE | {
        "gpus_missing": [{"pci_address": "0000:02:00.0", "reason": "has fallen off the bus"}]
    }
    said = words(picture.draw("x", facts, []))
    assert "✗ lost" in said
    assert "0000:02:00.0" in said


def test_disks_that_carry_the_same_paths_are_one_group():
    groups = picture.grouped(hgx()["storage"])
    assert [len(disks) for disks, _ in groups] == [1, 4]
    said = words(picture.draw("x", hgx(), []))
    assert "4 x 3.5 TiB · nvme1n1 to nvme4n1" in said


def test_what_services_and_hosts_are_called_cannot_break_the_page():
    nasty = '<script>alert("1")</script>&amp;'
    facts = REFERENCE | {"services": [service(nasty, "tcp", 1, "refused", nasty)]}
    findings = [terms.Finding(nasty, nasty, nasty, False, nasty, f"service:{nasty}", nasty)]
    text = page.render(nasty, facts, findings, nasty, REFERENCE_NOW)
    assert "<script>" not in text
    assert nasty in "".join(read(text).text)
    drawing(picture.draw(nasty, facts, findings))


def test_the_hosts_reports_do_not_vary_from_run_to_run():
    facts, profile = MACHINES["reference"]

    def run(latency, free):
        now = copy.deepcopy(REFERENCE_NOW)
        now["storage"]["/mnt/nvme0n1"]["free_gib"] = free
        answers = [
            (each, services.Answer("ready", each["said"], latency, latency)) for each in facts["services"]
        ]
        findings = [
            *compare.compare(profile, facts, now),
            *(services.finding(*answer) for answer in answers),
        ]
        return report.host_json(facts, findings), page.render("llm-1", facts, findings), findings

    first, second = run(0.3, 2900.0), run(7.9, 12.0)
    assert first[:2] == second[:2]
    assert report.table(first[2]) != report.table(second[2])
    assert "12 GiB free" not in second[0] + second[1]


def test_the_host_json_is_what_programs_read():
    facts, profile = MACHINES["reference"]
    read_back = json.loads(report.host_json(facts, findings_of(facts, profile)))
    assert set(read_back) == {"facts", "findings"}
    assert read_back["facts"]["memory_gib"] == 251.4
    assert set(read_back["findings"][0]) == {"requirement", "found", "wanted", "met", "remedy", "part"}
    assert {finding["remedy"] for finding in read_back["findings"] if finding["met"]} == {""}


@pytest.mark.parametrize("name", ["reference", "hgx", "lab"])
def test_the_terminals_summary_tells_the_machine(name):
    facts, _ = MACHINES[name]
    said = "\n".join(report.summary(facts, now_of(facts)))
    assert facts["cpu"]["model"] in said
    assert "reads 6800 MiB/s" in said
    assert "would take 3.7 s" in said
    assert "1 sockets" not in said


def test_nothing_asked_all_met_and_some_failed_are_three_verdicts():
    facts, profile = MACHINES["reference"]
    assert "Nothing is asked of this machine" in page.render("x", facts, [])
    assert re.search(r"All \d+ requirements met", page.render("x", facts, findings_of(facts, profile)))
    assert re.search(
        r"\d+ of \d+ requirements not met", page.render("x", *[facts, findings_of(*MACHINES["lab"])])
    )


def test_long_words_are_cut_and_short_ones_are_not():
    assert canvas.fitting("short", 200) == "short"
    cut = canvas.fitting("a very long name of a very long disk", 100)
    assert cut.endswith("…")
    assert len(cut) <= 13


# --- The controller's side ---

action = load("roles/hardware/action_plugins/citadel_hardware.py")


def test_the_controllers_copies_hold_what_varies(tmp_path):
    facts, profile = MACHINES["reference"]
    findings = [finding._asdict() for finding in findings_of(facts, profile)]
    result = {"facts": facts, "now": REFERENCE_NOW, "findings": findings}
    where = action.copy_reports(tmp_path / "deep/reports", "llm/1", result)
    assert where == str(tmp_path / "deep/reports/llm_1.html")
    assert sorted(file.name for file in (tmp_path / "deep/reports").iterdir()) == ["llm_1.html", "llm_1.json"]
    written = json.loads((tmp_path / "deep/reports/llm_1.json").read_text())
    assert written["now"]["storage"]["/mnt/nvme0n1"]["free_gib"] == 2900.0
    assert written["findings"][-1]["now"] == "connected in 0.4 ms, answered in 1.9 ms"
    assert "At this moment" in (tmp_path / "deep/reports/llm_1.html").read_text()


def test_the_terminals_summary_tells_of_a_gpu_that_is_lost():
    gone = {"pci_address": "0000:02:00.0", "reason": "has fallen off the bus"}
    facts = REFERENCE | {"gpus_missing": [gone]}
    assert "lost     GPU 0000:02:00.0 has fallen off the bus" in report.summary(facts, now_of(facts))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ok", "peer-to-peer works"),
        ("GNS", "no peer-to-peer (GNS)"),
        ("unknown", "peer-to-peer not known"),
    ],
)
def test_peer_to_peer_that_was_not_told_is_not_denied(word, said):
    assert machine("gpu_picture").peer_shown(word) == said
