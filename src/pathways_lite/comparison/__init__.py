"""Compare ways of training at equal compute and at equal loss, with intervals over their runs."""
