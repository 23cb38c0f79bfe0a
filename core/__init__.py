"""The problem itself: text, tensors, files. Knows nothing of Ray or of what the user asked for."""
