"""Numeric time series: CSV and Parquet files to regular, scaled columns of numbers, examples and datasets.

In: locations and the settings of the corpus. Out: a `reading.Table`, examples for a regressor, a dataset folder.
"""
