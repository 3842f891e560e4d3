"""The codec doctor: what is measured, when a figure is sick, and what to change."""
