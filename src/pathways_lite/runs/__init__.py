"""Run directories as a whole: find them, their states, what refers to them, and deleting what is not needed."""
