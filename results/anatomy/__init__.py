"""What `searcher analyze` has measured, as pictures and one HTML page; read from its files alone."""

from results.anatomy.analysis import Analysis, read_analysis
from results.anatomy.page import PAGE_FILE, write_analysis_page
from results.anatomy.sections import draw

__all__ = ["PAGE_FILE", "Analysis", "draw", "read_analysis", "write_analysis_page"]
