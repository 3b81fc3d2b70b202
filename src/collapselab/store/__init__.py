"""Files on disk, complete or absent: published folders, locks, the layout of a run, checks of untrusted files."""
