"""A base model whose layers are shared out over processes, with PyTorch's FSDP 2."""
