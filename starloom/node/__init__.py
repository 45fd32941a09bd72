"""What runs at a telescope: check a file, name it, compress it, send it, and learn what became of it."""
