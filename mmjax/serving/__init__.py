"""A service of an exported model: torch, FastAPI and FAISS, and never jax.

Nothing here imports jax, nor a module of mmjax that does: the packages of `requirements-serving.txt` are enough.
"""
