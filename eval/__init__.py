"""Evidence: files in (embeddings, profiles, descriptions), numbers and reports out; no model."""
