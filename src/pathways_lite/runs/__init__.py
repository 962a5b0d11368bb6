"""Run directories as a whole: which there are and how they are, what refers to them, and deleting what is not needed."""
