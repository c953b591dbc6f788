"""Pictures of runs: each function takes runs and returns a matplotlib `Figure`, without any global state.

from results.pictures import quality_against_size
quality_against_size([run]).savefig("quality.png", dpi=200)
"""

from results.pictures.collection import make_pictures, write_pictures
from results.pictures.convergence import convergence
from results.pictures.fronts import pareto_front
from results.pictures.quality import quality_against_size
from results.pictures.shapley import shapley_picture
from results.pictures.strips import removed_units

__all__ = [
    "convergence",
    "make_pictures",
    "pareto_front",
    "quality_against_size",
    "removed_units",
    "shapley_picture",
    "write_pictures",
]
