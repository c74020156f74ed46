"""Optimizers from optax, with learning rate, decay and freezing chosen by rules on parameter paths."""
