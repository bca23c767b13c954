"""Projectors from student to teacher features, one file each."""
