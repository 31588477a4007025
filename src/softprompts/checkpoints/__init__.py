"""Training checkpoints: folders that are written atomically and checked when read; a resumed run is exact."""
