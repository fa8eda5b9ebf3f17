"""Weights on disk: ours, the published layout, and the backbones that training starts from."""
