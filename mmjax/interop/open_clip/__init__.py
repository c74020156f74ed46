"""Folders of open_clip: its own ViT towers, and the SigLIP towers that it takes from timm."""
