"""The folder of a run: who owns it, what it is bound to, what it leaves."""
