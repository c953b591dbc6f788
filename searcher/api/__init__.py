"""The functions of the package: what `import searcher` gives, and what the command line calls.

It uses `commands` and `results`, which are imported when a function is called.
"""
