"""Dual encoders as folders: what is written, what the trained model makes of a sample, and their model card."""
