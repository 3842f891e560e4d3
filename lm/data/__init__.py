"""Token grids and texts as training batches."""
