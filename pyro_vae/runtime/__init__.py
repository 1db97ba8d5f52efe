"""What any program needs of its machine and its user: random state, memory, files, checks, messages."""
