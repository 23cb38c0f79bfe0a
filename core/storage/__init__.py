"""Files on any filesystem, and how they are committed."""
