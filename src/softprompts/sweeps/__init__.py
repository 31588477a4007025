"""Sweeps: candidates, successive halving, and the choice of the best."""
