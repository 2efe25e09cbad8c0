"""Phase align: wells and prompts in one embedding space."""
