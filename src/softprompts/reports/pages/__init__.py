"""Make pages about many runs: tables, figures and predictions side by side, each as a single HTML file."""
