"""What a plug-in must offer; each file holds its registry."""
