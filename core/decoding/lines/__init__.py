"""Lines: the input and output of batch inference.

In: text, JSONL or Parquet files. Out: rows, output folders, and one merged file.
"""
