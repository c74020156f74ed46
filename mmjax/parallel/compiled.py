"""Compiled programs are kept on disk, so that a run that starts again compiles nothing."""

import os
from pathlib import Path

import jax

MIN_SECS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_compiled(folder: Path) -> None:
    """Keeps them in `folder`, or where JAX_COMPILATION_CACHE_DIR says."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if MIN_SECS not in os.environ:
        # By default what compiles within a second is not kept; a start has many of those.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
