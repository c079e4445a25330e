"""Protocols that judge a trained encoder."""
