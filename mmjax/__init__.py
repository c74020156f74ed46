"""mmjax: pretraining vision-language models in JAX, from image-text pairs to served weights."""

__version__ = "0.1.0"
