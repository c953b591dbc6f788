"""The command line: options, help, and which result is printed. Nothing heavy is imported before a command runs.

It uses `commands` and `results`.
"""
