"""How long it takes until large data are ready to train on, and how much memory."""
