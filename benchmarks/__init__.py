"""Measurements that are kept: `pushpull bench ...`."""
