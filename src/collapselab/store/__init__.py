"""Bytes on disk, whole or not there: published folders, locks, the layout of a run, checks of untrusted files."""
