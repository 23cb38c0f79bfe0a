"""Runs that release 0.1 made, and tests that every later version opens them and writes what it wrote."""
