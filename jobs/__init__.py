"""What the user asked for: one module a verb."""
