"""What methods share: pure tensor functions, and the model that reads projected features."""
