"""The study: choose each method's settings on validation, and compare ways of training."""
