"""Records that a compliance team can file: cards, technical documentation, compute, notes and changes of a run."""
