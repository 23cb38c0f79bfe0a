"""Fan-out: tasks spread over workers, retried, each reported once.

In: tasks and a picklable factory. Out: results, in order of completion.
"""
