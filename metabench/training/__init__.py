"""Meta-training: tasks side by side, the loop, evaluation, and a run with its folder and its resume."""
