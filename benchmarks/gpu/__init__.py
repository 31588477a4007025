"""Training on a GPU: kernels of attention, steps against PEFT and TRL, banks of prompts, and compilation."""
