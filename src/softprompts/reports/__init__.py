"""What people read: the files that a run leaves, tables and plots, all made from run records."""
