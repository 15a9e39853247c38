"""What a bug report needs: versions, devices, precision, optional packages."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from sprec.system.hardware import pick_device, pick_precision

_PACKAGES = ("sprec", "torch", "transformers", "peft", "accelerate", "polars", "pydantic", "numpy")
_OPTIONAL = {"matplotlib": "report", "sentence-transformers": "ground", "bitsandbytes": "qlora", "fastapi": "serve"}


def report() -> dict[str, str]:
    """Name to finding, in the order to print."""
    device = pick_device("auto")
    found = {"python": sys.version.split()[0], "platform": platform.platform(), "cpus": str(os.cpu_count())}
    found |= {name: _version(name) or "missing: reinstall sprec" for name in _PACKAGES}
    found |= {
        name: _version(name) or f"not installed (pip install 'sprec[{extra}]')" for name, extra in _OPTIONAL.items()
    }
    found["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found["precision (auto)"] = str(pick_precision("auto", device)).removeprefix("torch.")
    found["threads"] = str(torch.get_num_threads())
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
