"""What must be set before JAX is imported, for it to compile for machines that are not there."""

import os

ENVIRONMENT = {
    # JAX itself runs on CPU, and does not ask GPUs for their versions.
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    # No TPU is looked for, and the compiler may be loaded beside another.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
GPU_FLAGS = "--xla_gpu_enable_triton_gemm=false"
"""Without a GPU none can be asked which tiles of Triton's products are fastest."""


def prepare() -> None:
    """Sets it for this process."""
    os.environ.update(ENVIRONMENT)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {GPU_FLAGS}".strip()
