"""Whether one way of training is better than another: at equal compute, at equal loss, and how sure that is."""
