"""Text: from files to clean lines.

In: URLs of plain, compressed, archived or tabular files. Out: parts of lines, cleaned and split.
"""
