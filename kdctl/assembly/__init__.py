"""What runs are made of: found, planned, put together and held against the device, without training."""
