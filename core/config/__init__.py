"""Settings of a run: one frozen, described class for each section, with unions by kind.

In come a YAML file, overrides and old names; out comes one validated configuration, or an error of one line.
"""
