"""Judges of music: notes, key, tempo, instruments, distance to renderings, and plain faults."""
