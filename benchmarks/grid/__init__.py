"""Every method with every seed on one task: what there is to do, and its records."""
