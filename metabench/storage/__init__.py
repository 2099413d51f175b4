"""What is kept: files and their layout, tensors, event files, and the mirror in object storage."""
