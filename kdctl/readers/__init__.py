"""Image files on disk, turned into arrays; data sets share these."""
