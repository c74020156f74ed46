"""Fusion models under the names of their reference implementations, tables as data."""
