"""Folders of Hugging Face's `transformers`: one file a model class, each a config both ways and a table of tensors."""
