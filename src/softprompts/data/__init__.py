"""Read rows from files, embedded tasks and the Hub, each with its place."""
