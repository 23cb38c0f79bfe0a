"""Reports: the HTML page of a run, the comparison of several runs, and the page of forecasts.

In: the files below a run's root. Out: one JSON document and self-contained HTML pages.
"""
