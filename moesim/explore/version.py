"""What results depend on beside their experiment: the code, and the measurements that it reads."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from moesim.spec.library import KINDS, builtin_root, list_descriptors

#: Packages whose arithmetic enters a result.
_PACKAGES = ("numpy", "scipy", "simpy", "pydantic")


@lru_cache(maxsize=1)
def code_version() -> str:
    """A digest of the package's sources, of its calibrations, and of the platform and packages that it runs on."""
    import moesim

    digest = hashlib.sha256()
    package = Path(moesim.__file__).parent
    files = [*package.rglob("*.py"), *(builtin_root() / "hardware" / "calibrations").rglob("*.yaml")]
    for path in sorted(files, key=lambda each: each.as_posix()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    versions = [f"{package}={metadata.version(package)}" for package in _PACKAGES]
    digest.update(" ".join([platform.machine(), f"{sys.version_info[:2]}", *versions]).encode())
    return digest.hexdigest()[:20]


def library_version() -> str:
    """A digest of every descriptor that a name may mean now, and of the calibrations in `MOESIM_PATH`."""
    digest = hashlib.sha256()
    for kind in KINDS:
        if kind == "experiments":
            continue
        for name, path in list_descriptors(kind).items():
            digest.update(f"{kind}/{name}\0".encode() + path.read_bytes())
    for path in _own_calibrations():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def _own_calibrations() -> list[Path]:
    import os

    roots = [Path(entry).expanduser() for entry in os.environ.get("MOESIM_PATH", "").split(os.pathsep) if entry]
    return sorted(path for root in roots for path in root.glob("**/calibrations/**/*.yaml"))
