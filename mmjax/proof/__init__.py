"""What an export says of itself and how it is checked: PyTorch and the public libraries, without JAX."""
