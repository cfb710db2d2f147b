"""Training over shaped links between network namespaces of this machine."""
