"""Search strategies, one method a file. They see plans and numbers only."""
