"""Our own models in plain PyTorch, for inference: neither jax nor transformers.

Names of weights are the parameter paths of mmjax, with "." for "/" and one entry a layer. b: examples, t: tokens of the
text, p: tokens of the image, d: width of a stream, c: numbers of a region or channels, e: width of an embedding.
"""
