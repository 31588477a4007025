"""Pages about many runs: tables, figures and answers side by side, each page one HTML file that needs nothing else."""
