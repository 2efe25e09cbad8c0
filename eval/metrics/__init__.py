"""Metric modules for Hugging Face evaluate, loadable offline from this folder."""
