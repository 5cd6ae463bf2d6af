"""Verifiers, one a file, and how their verdicts combine."""
