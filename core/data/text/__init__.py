"""Reading and cleaning text.

In: URLs of plain, compressed, archived or tabular files. Out: parts of a corpus, as cleaned lines with their splits.
"""
