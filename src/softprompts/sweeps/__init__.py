"""Sweeps: the candidates, who goes on, and the choice of the best."""
