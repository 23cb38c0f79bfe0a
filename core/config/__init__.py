"""Every setting of a run: its schema and how a file becomes one."""
