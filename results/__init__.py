"""Results: read run folders, and show what was found."""
