"""Building blocks that models and projectors share."""
