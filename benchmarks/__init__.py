"""Benchmarks, run by hand: `python -m benchmarks.evaluator`, each prints a table and writes its figures as JSON."""
