"""Scorers, one an engine, and what of their numbers becomes a score."""
