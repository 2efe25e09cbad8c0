"""The model: a LLaVA with a channel-adaptive vision tower, registered with the Auto classes."""
