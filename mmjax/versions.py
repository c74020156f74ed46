"""Which code runs: versions of the libraries that decide numbers, and a digest of our own source."""

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

import mmjax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


@functools.cache
def versions() -> dict[str, str]:
    """Version by name; "source" is a digest of every module of mmjax."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "mmjax": mmjax.__version__, "source": _digest(), **libraries}


def _digest() -> str:
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
