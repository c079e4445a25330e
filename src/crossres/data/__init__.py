"""Images with labels, the readers that find them, and batches of two resolutions."""
