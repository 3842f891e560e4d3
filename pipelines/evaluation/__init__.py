"""Judges, scores and reports."""
