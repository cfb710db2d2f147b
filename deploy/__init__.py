"""The command line, the launcher of local clusters, progress and summary."""
