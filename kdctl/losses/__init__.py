"""Pure tensor functions that methods share."""
