"""The cluster: sessions, nodes, authentication, job submission, signals.

In: cluster settings. Out: a Ray session that is started or joined, and left.
"""
