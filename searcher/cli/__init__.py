"""The command line: options, help, and which result is printed. Nothing heavy is imported before a command runs.

It uses `api` and `results`; a file for each command.
"""
