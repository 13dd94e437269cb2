"""Tell from an engine's lock which CUDA version its torch is built for, and so which driver it wants."""

import re
from collections.abc import Callable
from typing import Any

# torch's wheels on PyPI want the runtime of their CUDA version as a package of its own (until CUDA 12 with
# a suffix); those of PyTorch's own index carry the version in torch's local version.
_RUNTIME = re.compile(r"^nvidia-cuda-runtime(?:-cu\d+)?==(\d+\.\d+)", re.MULTILINE)
_LOCAL = re.compile(r"^torch==[^\s+;]+\+cu(\d+)(\d)\b", re.MULTILINE)


def cuda_of_lock(lock: str) -> str:
    """Return the CUDA version, such as "13.0", that the torch in a lock's text is built for.

    Raises:
        ValueError: the lock holds no torch that is built for CUDA.
    """
    if runtime := _RUNTIME.search(lock):
        return runtime[1]
    if local := _LOCAL.search(lock):
        return f"{local[1]}.{local[2]}"
    raise ValueError("the lock pins neither nvidia-cuda-runtime nor a torch of a CUDA build")


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"citadel_cuda_of_lock": cuda_of_lock}
