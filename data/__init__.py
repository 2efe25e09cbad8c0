"""Plates, wells and sites: from raw images to a prepared store. Knows no model."""
