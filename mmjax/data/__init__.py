"""Records to examples to host batches: numpy only, random access by index, order a function of (seed, step)."""
