"""Divide the layers of a base model among processes, with PyTorch's FSDP 2."""
