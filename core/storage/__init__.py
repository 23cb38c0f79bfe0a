"""Storage: files on any filesystem or object store, the commit protocol, and the run lock.

In: URLs, bytes. Out: files that are whole or absent, and manifests that make them visible.
"""
