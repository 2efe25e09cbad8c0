"""Evidence: files in (embeddings, profiles, descriptions), numbers and reports out. Loads no model."""
