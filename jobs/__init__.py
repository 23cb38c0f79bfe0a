"""The command line: one module per verb, their options, and the console.

In: a command line, with a configuration or a trained run. Out: the verb's report, one JSON document on stdout; progress
on stderr; an exit code by kind of error.
"""
