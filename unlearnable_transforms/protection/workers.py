"""The worker processes of the whole library, under the name that protection uses."""

from ..workers import cores as cores
from ..workers import run_tasks as run_tasks
