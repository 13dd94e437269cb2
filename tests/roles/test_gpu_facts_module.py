"""The outputs follow nvidia-smi's documented CSV and its known messages; no GPU was asked for them."""

import pytest

from .role_modules import load

gpu_facts = load("library/citadel_gpu_facts.py")

TWO_CARDS = """\
0, GPU-0c1b2d3e-4f5a-6b7c-8d9e-0f1a2b3c4d5e, NVIDIA GeForce RTX 5060 Ti, 16311, 575.57.08, 12.0
1, GPU-1c1b2d3e-4f5a-6b7c-8d9e-0f1a2b3c4d5e, NVIDIA GeForce RTX 5060 Ti, 16311, 575.57.08, 12.0
"""
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"


def test_each_card_has_an_entry():
    gpus = gpu_facts.parse_gpus(TWO_CARDS)
    assert [(gpu["index"], gpu["name"], gpu["memory_mib"]) for gpu in gpus] == [
        (0, "NVIDIA GeForce RTX 5060 Ti", 16311),
        (1, "NVIDIA GeForce RTX 5060 Ti", 16311),
    ]
    assert {gpu["compute_capability"] for gpu in gpus} == {"12.0"}
    assert len({gpu["uuid"] for gpu in gpus}) == 2


@pytest.mark.parametrize(("kernel_module", "is_open"), [(OPEN, True), (CLOSED, False), ("", False)])
def test_the_driver(kernel_module, is_open):
    assert gpu_facts.parse_driver(TWO_CARDS, kernel_module) == {"version": "575.57.08", "open": is_open}


@pytest.mark.parametrize(
    "output",
    [
        "0, GPU-x, NVIDIA H200, [N/A], 575.57.08, 9.0\n",
        "0, GPU-x, NVIDIA H200\n",
        "No devices were found\n",
        "\x00\x01garbage\n",
    ],
)
def test_what_is_no_list_of_cards_is_refused(output):
    with pytest.raises(ValueError, match=r"nvidia-smi answered|invalid literal"):
        gpu_facts.parse_gpus(output)


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (
            9,
            "NVIDIA-SMI has failed because it couldn't\ncommunicate with the NVIDIA driver.",
            "failed (9): NVIDIA-SMI has",
        ),
        (
            18,
            "Failed to initialize NVML: Driver/library version mismatch\n",
            "(18): Failed to initialize NVML: Driver/lib",
        ),
        (15, "Unable to determine the device handle for GPU0: GPU is lost.", "GPU is lost"),
        (6, "", "said nothing"),
    ],
)
def test_the_reason_is_one_line_in_nvidia_smis_words(status, output, reason):
    said = gpu_facts.reason_for(status, output)
    assert reason in said
    assert "\n" not in said
