import pytest

from .role_modules import ROOT, load

cuda = load("roles/nvidia_driver/filter_plugins/citadel_cuda.py")
gpu_check = load("library/citadel_gpu_check.py")


@pytest.mark.parametrize(
    ("lock", "version"),
    [
        ("nvidia-cuda-runtime==13.0.96 ; sys_platform == 'linux' \\\n    --hash=sha256:00\n", "13.0"),
        ("nvidia-cuda-runtime-cu12==12.9.79 \\\ntorch==2.9.0 \\\n", "12.9"),
        ("torch==2.9.0+cu128 \\\n", "12.8"),
        ("torch==1.0.0+cu102 \\\n", "10.2"),
        # What is told by the runtime itself wins.
        ("nvidia-cuda-nvcc==13.5.37 \\\nnvidia-cuda-runtime==13.0.96 \\\ntorch==2.9.0+cu130 \\\n", "13.0"),
    ],
)
def test_the_version_is_read_from_the_pins(lock, version):
    assert cuda.cuda_of_lock(lock) == version


@pytest.mark.parametrize(
    "lock", ["", "torch==2.13.0+cpu \\\n", "# nvidia-cuda-runtime==13.0\n", "torch==2.9.0 \\\n"]
)
def test_a_lock_without_cuda_is_refused(lock):
    with pytest.raises(ValueError, match="pins neither"):
        cuda.cuda_of_lock(lock)


def test_the_projects_lock_names_a_version_whose_driver_is_known():
    version = cuda.cuda_of_lock((ROOT / "requirements/engine-cuda.txt").read_text())
    assert gpu_check.numbers(version)[0] in gpu_check._CUDA_BRANCHES


def test_the_filter_has_its_name():
    assert cuda.FilterModule().filters() == {"citadel_cuda_of_lock": cuda.cuda_of_lock}
