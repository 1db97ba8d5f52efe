"""Parts that any program needs: random state, memory, files, checks of arguments, messages."""
