"""What one process does, and how work is spread over Ray."""
